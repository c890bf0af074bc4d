package nodes

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"sync"
	"time"

	"millrace/engine"
	"millrace/services/cluster"
	"millrace/services/nodes/internal/envelope"
)

// Present is a session in a group.
type Present struct {
	ID    SessionID
	Node  string   // its node's name
	Users []string // bound to it, as far as its node knows, sorted
}

// Presence is the result of Node.Presence: who is in a group, as reported by the nodes.
type Presence struct {
	Sessions []Present // by node and session
	Members  int       // how many there are: more than Sessions if a node has more than it lists
	Silent   []string  // names of the nodes that have not answered in time, sorted; their members are unknown
}

// MaxPresent is how many sessions one node lists, at most.
const MaxPresent = 10_000

// maxPresence limits the list of one node, in bytes.
const maxPresence = 256 << 10

// Presence requests from every living node who is in the group of that name. It returns when all
// have answered, or when ctx ends, at most after Config.Timeout; nodes that have not answered are
// listed in Silent. A node that can't be reached at all is not known to live, and not listed.
func (n *Node) Presence(ctx context.Context, name string) Presence {
	ctx, cancel := n.bounded(ctx)
	defer cancel()
	var (
		mu     sync.Mutex
		p      Presence
		asking sync.WaitGroup
	)
	for _, m := range n.others() {
		asking.Go(func() {
			got, count, err := n.askWho(ctx, m, name)
			for errors.Is(err, cluster.ErrOverloaded) && sleep(ctx, 10*time.Millisecond) {
				got, count, err = n.askWho(ctx, m, name)
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				p.Silent = append(p.Silent, m.Name)
				return
			}
			p.Sessions = append(p.Sessions, got...)
			p.Members += count
		})
	}
	own, count := n.present(name)
	asking.Wait()
	p.Sessions, p.Members = append(p.Sessions, own...), p.Members+count
	slices.SortFunc(p.Sessions, func(a, b Present) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.ID.Session, b.ID.Session))
	})
	slices.Sort(p.Silent)
	return p
}

// present returns the members on this node, and how many there are.
func (n *Node) present(name string) (all []Present, count int) {
	srv := n.server()
	if srv == nil {
		return nil, 0
	}
	g := srv.Group(name)
	for _, s := range g.Members(MaxPresent) {
		all = append(all, Present{ID: n.ID(s), Node: n.cfg.Name, Users: n.users.of(s)})
	}
	return all, max(g.Len(), len(all))
}

// of returns the users bound to a session, sorted.
func (u *users) of(s *engine.Session) (all []string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if of := u.sessions[s]; of != nil {
		for user := range of.users {
			if u.bound[user].s == s {
				all = append(all, user)
			}
		}
	}
	slices.Sort(all)
	return all
}

// who answers another node's request, with a list of at most most bytes.
func (n *Node) who(name string, most int) envelope.Envelope {
	all, count := n.present(name)
	var body []byte
	for _, p := range all {
		next := binary.BigEndian.AppendUint64(body, uint64(p.ID.Session))
		next = binary.BigEndian.AppendUint16(next, uint16(len(p.Users)))
		for _, user := range p.Users {
			next = binary.BigEndian.AppendUint16(next, uint16(len(user)))
			next = append(next, user...)
		}
		if len(next) > most {
			break
		}
		body = next
	}
	return envelope.Envelope{Kind: envelope.Answer, Epoch: uint64(count), Body: body}
}

// askWho requests the members of one node.
func (n *Node) askWho(ctx context.Context, m Member, name string) ([]Present, int, error) {
	b, err := n.seal(envelope.Envelope{Kind: envelope.Who, Key: name})
	if err != nil {
		return nil, 0, err
	}
	got, err := n.bus.Ask(ctx, m.asks, b)
	if err != nil {
		return nil, 0, err
	}
	body, err := parseAnswer(got)
	if err != nil {
		return nil, 0, err
	}
	e, err := envelope.Parse(got)
	if err != nil {
		return nil, 0, err
	}
	all, err := parsePresent(body, m)
	return all, max(int(min(e.Epoch, 1<<30)), len(all)), err
}

// errPresence: a node's list of members is malformed.
var errPresence = errors.New("nodes: bad answer of who is present")

// parsePresent parses what who has written.
func parsePresent(b []byte, m Member) (all []Present, err error) {
	take := func(n int) []byte {
		if len(b) < n {
			err, b = errPresence, nil
			return make([]byte, n)
		}
		head := b[:n]
		b = b[n:]
		return head
	}
	for len(b) > 0 && err == nil && len(all) < MaxPresent {
		p := Present{ID: SessionID{m.Process, engine.ID(binary.BigEndian.Uint64(take(8)))}, Node: m.Name}
		for range binary.BigEndian.Uint16(take(2)) {
			p.Users = append(p.Users, string(take(int(binary.BigEndian.Uint16(take(2))))))
			if err != nil {
				break
			}
		}
		all = append(all, p)
	}
	if err != nil {
		return nil, err
	}
	return all, nil
}
