package main

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// natsNode is a cluster node with plain nats.go and a goroutine for each connection: one of -nodes
// servers n1, n2, … at one -nats. Requests to a node go directly to its subject; of the other nodes
// it knows only their number. Bodies are JSON throughout.
type natsNode struct {
	name  string
	nodes int
	nc    *nats.Conn // for requests; a group's frames come by cast, which does not hear itself
	cast  *nats.Conn
	users jetstream.KeyValue

	mu     sync.Mutex
	groups map[string]*natsGroup
	subs   map[string]*natsUser // bound here
	rooms  map[string]int64     // homed here
}

type natsGroup struct{ members map[*natsConn]struct{} }

type natsUser struct {
	sub *nats.Subscription
	of  *natsConn
}

// The handles of part 6 of the frame's contract, and of groups.
const (
	joinHandle  = 1<<16 | 5
	sendHandle  = 1<<16 | 7
	pushHandle  = 1<<16 | 8
	nodesHandle = 6<<16 | 1
	callHandle  = 6<<16 | 2
	bindHandle  = 6<<16 | 3
	userHandle  = 6<<16 | 4
	roomHandle  = 6<<16 | 5
	toldHandle  = 6<<16 | 6
	natsWait    = 5 * time.Second
	natsPending = 1 << 10 // requests of a connection under way; then it is not read
)

func serveNATS(o options) error {
	s := &natsNode{name: o.node, nodes: o.nodes, groups: map[string]*natsGroup{}, subs: map[string]*natsUser{}, rooms: map[string]int64{}}
	if o.nats != "" {
		if err := s.join(o.nats); err != nil {
			return err
		}
	}
	l, err := net.Listen("tcp", o.addr)
	if err != nil {
		return err
	}
	ready(l.Addr())
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		nc := &natsConn{Conn: c, node: s, answers: make(chan chan []byte, natsPending)}
		go nc.answer()
		go nc.read()
	}
}

func (s *natsNode) join(url string) (err error) {
	if s.nc, err = nats.Connect(url); err != nil {
		return err
	}
	if s.cast, err = nats.Connect(url, nats.NoEcho()); err != nil {
		return err
	}
	js, err := jetstream.New(s.nc)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), natsWait)
	defer cancel()
	if s.users, err = js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "users"}); err != nil {
		return err
	}
	for subject, fn := range map[string]func([]byte) any{
		"call." + s.name: s.sum, "room." + s.name: s.add, "ping." + s.name: func([]byte) any { return s.name },
	} {
		if _, err := s.nc.Subscribe(subject, func(m *nats.Msg) { _ = m.Respond(encode(fn(m.Data))) }); err != nil {
			return err
		}
	}
	return s.nc.Flush()
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // of our own types
	}
	return b
}

type natsSum struct {
	Node string `json:"node"`
	A    int64  `json:"a"`
	B    int64  `json:"b"`
}

func (s *natsNode) sum(body []byte) any {
	var in natsSum
	_ = json.Unmarshal(body, &in) // a wrong one is answered by 0
	return map[string]any{"sum": in.A + in.B, "node": s.name}
}

type natsAdd struct {
	Room string `json:"room"`
	Add  int64  `json:"add"`
}

func (s *natsNode) add(body []byte) any {
	var in natsAdd
	_ = json.Unmarshal(body, &in)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rooms[in.Room] += in.Add
	return map[string]any{"value": s.rooms[in.Room], "node": s.name, "token": 1}
}

// request asks a subject, or this node itself without NATS.
func (s *natsNode) request(kind, node string, body []byte, here func([]byte) any) ([]byte, error) {
	if node == s.name {
		return encode(here(body)), nil
	}
	m, err := s.nc.Request(kind+node, body, natsWait)
	if err != nil {
		return nil, err
	}
	return m.Data, nil
}

// list is 6/1: the nodes that answer.
func (s *natsNode) list([]byte) ([]byte, error) {
	type entry struct {
		Name  string `json:"name"`
		State string `json:"state"`
		Self  bool   `json:"self"`
	}
	var all []entry
	for i := range s.nodes {
		name := "n" + strconv.Itoa(i+1)
		if name != s.name {
			if _, err := s.nc.Request("ping."+name, nil, natsWait); err != nil {
				continue
			}
		}
		all = append(all, entry{name, "up", name == s.name})
	}
	return encode(map[string]any{"nodes": all}), nil
}

func (s *natsNode) call(body []byte) ([]byte, error) {
	var in natsSum
	if err := json.Unmarshal(body, &in); err != nil {
		return nil, err
	}
	return s.request("call.", in.Node, body, s.sum)
}

// room: its node is determined by a hash of its name.
func (s *natsNode) room(body []byte) ([]byte, error) {
	var in natsAdd
	if err := json.Unmarshal(body, &in); err != nil {
		return nil, err
	}
	h := uint32(2166136261) // FNV-1a
	for i := range len(in.Room) {
		h = (h ^ uint32(in.Room[i])) * 16777619
	}
	return s.request("room.", "n"+strconv.Itoa(int(h%uint32(s.nodes))+1), body, s.add)
}

// joinGroup subscribes for the first member.
func (s *natsNode) joinGroup(c *natsConn, body []byte) ([]byte, error) {
	var in struct{ Group string }
	if err := json.Unmarshal(body, &in); err != nil {
		return nil, err
	}
	s.mu.Lock()
	g := s.groups[in.Group]
	if g == nil {
		g = &natsGroup{members: map[*natsConn]struct{}{}}
		s.groups[in.Group] = g
		if _, err := s.cast.Subscribe("g."+in.Group, func(m *nats.Msg) { s.deliver(g, m.Data) }); err != nil {
			s.mu.Unlock()
			return nil, err
		}
	}
	g.members[c] = struct{}{}
	n := len(g.members)
	s.mu.Unlock()
	return encode(map[string]int{"members": n}), s.cast.Flush()
}

func (s *natsNode) deliver(g *natsGroup, frame []byte) int {
	s.mu.Lock()
	all := make([]*natsConn, 0, len(g.members))
	for c := range g.members {
		all = append(all, c)
	}
	s.mu.Unlock()
	for _, c := range all {
		_ = c.write(frame) // its own goroutine sees the failure
	}
	return len(all)
}

// sendGroup: the frame is made once, and goes to each node once.
func (s *natsNode) sendGroup(body []byte) ([]byte, error) {
	var in struct{ Group, Data string }
	if err := json.Unmarshal(body, &in); err != nil {
		return nil, err
	}
	frame := frameOf(pushHandle, encode(map[string]any{"group": in.Group, "from": 1, "round": 1, "data": in.Data, "node": s.name}))
	if err := s.cast.Publish("g."+in.Group, frame); err != nil {
		return nil, err
	}
	s.mu.Lock()
	g := s.groups[in.Group]
	s.mu.Unlock()
	n := 0
	if g != nil {
		n = s.deliver(g, frame)
	}
	return encode(map[string]int{"sent": n}), nil
}

// bind is a compare-and-set in the bucket; messages to a user go to the connection that subscribed
// for the user.
func (s *natsNode) bind(c *natsConn, body []byte) ([]byte, error) {
	var in struct{ User string }
	if err := json.Unmarshal(body, &in); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), natsWait)
	defer cancel()
	value := []byte(s.name + " " + c.RemoteAddr().String())
	var rev uint64
	for {
		e, err := s.users.Get(ctx, in.User)
		switch {
		case errors.Is(err, jetstream.ErrKeyNotFound):
			rev, err = s.users.Create(ctx, in.User, value)
		case err == nil:
			rev, err = s.users.Update(ctx, in.User, value, e.Revision())
		}
		if err == nil {
			break
		}
		if !errors.Is(err, jetstream.ErrKeyExists) {
			return nil, err
		}
	}
	s.mu.Lock()
	had := s.subs[in.User]
	s.mu.Unlock()
	if had == nil || had.of != c {
		sub, err := s.nc.Subscribe("u."+in.User, func(m *nats.Msg) {
			err := c.write(m.Data)
			_ = m.Respond(encode(map[string]bool{"sent": err == nil}))
		})
		if err != nil {
			return nil, err
		}
		if had != nil {
			_ = had.sub.Unsubscribe()
		}
		s.mu.Lock()
		s.subs[in.User] = &natsUser{sub, c}
		s.mu.Unlock()
		if err := s.nc.Flush(); err != nil {
			return nil, err
		}
	}
	return encode(map[string]uint64{"epoch": rev}), nil
}

func (s *natsNode) sendUser(body []byte) ([]byte, error) {
	var in struct{ User, Data string }
	if err := json.Unmarshal(body, &in); err != nil {
		return nil, err
	}
	frame := frameOf(toldHandle, encode(map[string]string{"user": in.User, "data": in.Data, "node": s.name}))
	m, err := s.nc.Request("u."+in.User, frame, natsWait)
	if err != nil {
		return nil, err
	}
	return m.Data, nil
}
