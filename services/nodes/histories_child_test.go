//go:build unix

package nodes_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"millrace/codec"
	"millrace/engine"
	"millrace/internal/proctest"
	"millrace/services"
	"millrace/services/cluster"
	"millrace/services/nodes"
)

// The processes of a history are this test binary run again: a NATS server that can be killed,
// and nodes. A node has sessions of its own that log in as one of a few users, again and again,
// sends to users, and adds to counters in rooms. It writes what it does as one line of JSON
// each; the stamps are of the machine's monotonic clock, which all processes share.

// noted is one line of a node.
type noted struct {
	Kind string // ready, call, return, got, ran, stopped
	Who  int    `json:",omitempty"` // filled in by the parent
	Op   int    `json:",omitempty"` // numbers the calls of one process
	From int64  `json:",omitempty"` // before it was asked for; nanoseconds; of a return: instead of the call's
	To   int64  `json:",omitempty"` // after the answer

	In  act     `json:",omitzero"`
	Out outcome `json:",omitzero"`
}

// act is what is done, on a user or a room: bind, send, bound, close, told, add.
type act struct {
	Call, Key string
	Session   string `json:",omitempty"` // of bind, close, told: whose
	Msg       string `json:",omitempty"` // of send, got
}

// outcome is its answer. Unknown: it may have happened, or happen still; Dropped: it has not,
// and won't.
type outcome struct {
	OK, Unknown, Dropped bool
	Session              string
	Epoch, Token         uint64
	Value                int
}

var (
	historyUsers = []string{"ann", "bob"}
	historyRooms = []string{"tea", "milk"}
)

func init() {
	proctest.Role("nats", natsRole)
	proctest.Role("node", nodeRole)
}

func fatal(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func natsRole() {
	var port int
	_, _ = fmt.Sscan(os.Getenv("NATS_PORT"), &port) // none: a free one
	srv, err := cluster.StartEmbedded(cluster.EmbeddedConfig{Dir: os.Getenv("NATS_DIR"), Port: port})
	fatal(err)
	fmt.Println(srv.URL())
	_ = bufio.NewScanner(os.Stdin).Scan() // until the parent ends it
	srv.Stop()
}

// historian is a node that writes down what it does.
type historian struct {
	*nodes.Node
	srv   *engine.Server
	rooms *nodes.Homes[int]
	ops   atomic.Int64

	mu  sync.Mutex
	out *json.Encoder
}

func (h *historian) note(n noted) {
	h.mu.Lock()
	defer h.mu.Unlock()
	_ = h.out.Encode(n)
}

func nodeRole() {
	lease, err := time.ParseDuration(os.Getenv("NATS_LEASE"))
	fatal(err)
	h := &historian{out: json.NewEncoder(os.Stdout)}
	pool, err := engine.NewPool(engine.PoolConfig{Workers: 4, Logger: quiet})
	fatal(err)
	fatal(pool.Start(background))
	const timeout = 900 * time.Millisecond
	cache, err := cluster.New(cluster.Config{URL: os.Getenv("NATS_URL"), Bucket: "h", Lease: lease, Timeout: timeout, Logger: quiet})
	fatal(err)
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) { // a fault may be under way
		if err = cache.Start(background); err == nil || time.Now().After(end) {
			break
		}
	}
	fatal(err)
	h.Node, err = nodes.New(nodes.Config{Name: os.Getenv("NODE_NAME"), Cache: cache, Timeout: timeout, Logger: quiet})
	fatal(err)
	h.rooms, err = nodes.NewHomes(h.Node, nodes.HomesConfig[int]{Name: "h", Handle: h.add, Idle: engine.Off})
	fatal(err)
	h.srv, err = engine.New(engine.Config{Addrs: []string{"tcp://127.0.0.1:0"}, Loops: 1, Pool: pool, Logger: quiet,
		Timeouts: engine.Timeouts{FirstFrameTimeout: engine.Off}}, &echoes{})
	fatal(err)
	h.Attach(h.srv, pool)
	fatal(h.Node.Start(background))
	fatal(h.srv.Start(background))
	h.note(noted{Kind: "ready"})
	ctx, cancel := context.WithCancel(background)
	var working sync.WaitGroup
	for range 2 {
		working.Go(func() {
			for ctx.Err() == nil {
				h.login(ctx, historyUsers[rand.IntN(len(historyUsers))])
			}
		})
		working.Go(func() { h.count(ctx) })
	}
	_ = bufio.NewScanner(os.Stdin).Scan() // until the parent ends it
	cancel()
	working.Wait()
	bounded, cancel := context.WithTimeout(background, 10*time.Second)
	defer cancel()
	_ = h.srv.Stop(bounded)
	_ = h.Node.Stop(bounded)
	_ = cache.Stop(bounded)
	_ = pool.Stop(bounded)
	h.note(noted{Kind: "stopped"})
}

func pause(ctx context.Context, most time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(rand.N(most)):
	}
}

// do notes a call and its outcome.
func (h *historian) do(in act, call func() (outcome, error)) outcome {
	op := int(h.ops.Add(1))
	h.note(noted{Kind: "call", Op: op, In: in, From: proctest.Monotonic()})
	out, err := call()
	switch {
	case err == nil:
		out.OK = true
	case errors.Is(err, cluster.ErrUnavailable), errors.Is(err, cluster.ErrOverloaded), errors.Is(err, engine.ErrClosed), errors.Is(err, engine.ErrLimit),
		errors.Is(err, services.ErrCacheDown) && !errors.Is(err, services.ErrCacheUnknown):
		out = outcome{Dropped: true}
	default:
		out = outcome{Unknown: true}
	}
	h.note(noted{Kind: "return", Op: op, Out: out, To: proctest.Monotonic()})
	return out
}

// login is the life of a session that has a user: it ends by itself, or when another login
// replaces it.
func (h *historian) login(ctx context.Context, user string) {
	conn, s, in := h.session()
	defer conn.Close()
	id := h.ID(s).String()
	var bound, told atomic.Int64 // when it was bound first, and told that it is not any more
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			p, err := in.Next()
			switch {
			case err != nil:
				return
			case p.Main == 6 && p.Sub == 6:
				h.note(noted{Kind: "got", In: act{Session: id, Msg: string(p.Body)}, To: proctest.Monotonic()})
			case p.Main == 0 && p.Sub == 3 && binary.BigEndian.Uint16(p.Body) == uint16(engine.CodeConflict):
				told.Store(proctest.Monotonic())
			}
		}
	}()
	sure := true // no bind that may happen still
	over := func() bool {
		select {
		case <-ended:
			return true
		default:
			return ctx.Err() != nil
		}
	}
	end := int(h.ops.Add(1)) // it ends at some time, and what it had with it
	h.note(noted{Kind: "call", Op: end, In: act{Call: "close", Key: user, Session: id}, From: proctest.Monotonic()})
	for left := 1 + rand.IntN(12); left > 0 && !over(); left-- {
		switch call := rand.IntN(6); {
		case call == 0 || bound.Load() == 0:
			from := proctest.Monotonic()
			out := h.do(act{Call: "bind", Key: user, Session: id}, func() (out outcome, err error) {
				out.Epoch, err = h.Bind(background, s, about, user)
				return out, err
			})
			if out.OK {
				from = proctest.Monotonic()
			}
			if !out.Dropped {
				bound.CompareAndSwap(0, from)
			}
			sure = sure && !out.Unknown
		case call < 4:
			to, msg := historyUsers[rand.IntN(len(historyUsers))], fmt.Sprintf("%s.%d", h.Name(), h.ops.Load())
			msg += fmt.Sprintf(".%x", rand.Uint32())
			h.do(act{Call: "send", Key: to, Msg: msg}, func() (out outcome, err error) {
				sent, err := h.SendUser(background, to, 6, 6, []byte(msg))
				out.Value = map[bool]int{true: 1}[sent]
				return out, err
			})
		default:
			h.look(historyUsers[rand.IntN(len(historyUsers))])
		}
		pause(ctx, 25*time.Millisecond)
	}
	from := proctest.Monotonic()
	left := h.leave(ctx, conn, ended, user, id)
	if at := told.Load(); at != 0 {
		from = 0 // its node has ended it, at any time since
		op := int(h.ops.Add(1))
		h.note(noted{Kind: "call", Op: op, In: act{Call: "told", Key: user, Session: id}, From: min(bound.Load(), at)})
		h.note(noted{Kind: "return", Op: op, Out: outcome{OK: true}, To: at})
	}
	if left {
		h.note(noted{Kind: "return", Op: end, Out: outcome{OK: sure, Unknown: !sure}, From: from, To: proctest.Monotonic()})
	}
}

func (h *historian) look(user string) outcome {
	return h.do(act{Call: "bound", Key: user}, func() (out outcome, err error) {
		got, epoch, _, err := h.Bound(background, user) // whether its node lives is another matter
		if got != (nodes.SessionID{}) {
			out.Session, out.Epoch = got.String(), epoch
		}
		return out, err
	})
}

// leave closes the session, and waits until the store does not have it any more; false: it
// still did when the node was ended.
func (h *historian) leave(ctx context.Context, conn net.Conn, ended chan struct{}, user, id string) bool {
	_ = conn.Close()
	<-ended
	for ctx.Err() == nil {
		got, _, _, err := h.Bound(background, user)
		if err == nil && got.String() != id {
			return true
		}
		pause(ctx, 10*time.Millisecond)
	}
	return false
}

// session connects one, which is there when it returns.
func (h *historian) session() (net.Conn, *engine.Session, *codec.Reader) {
	conn, err := net.Dial("tcp", h.srv.Addrs()[0].String())
	fatal(err)
	_, err = conn.Write(codec.Packet{Main: 99, Sub: 99}.Append(nil))
	fatal(err)
	in := codec.NewReader(conn, nil)
	_, err = in.Next()
	fatal(err)
	var found *engine.Session
	h.srv.Sessions(func(s *engine.Session) bool {
		if s.RemoteAddr().String() == conn.LocalAddr().String() {
			found = s
		}
		return found == nil
	})
	if found == nil {
		fatal(errors.New("no session of the connection's"))
	}
	return conn, found, in
}

// count adds to rooms.
func (h *historian) count(ctx context.Context) {
	for ctx.Err() == nil {
		room := historyRooms[rand.IntN(len(historyRooms))]
		h.do(act{Call: "add", Key: room}, func() (out outcome, err error) {
			b, err := h.rooms.Ask(background, room, nil)
			if err == nil {
				err = json.Unmarshal(b, &out)
			}
			return out, err
		})
		pause(ctx, 25*time.Millisecond)
	}
}

// add runs in a room. That the room is this node's is noted with a time at which it still was:
// the clock is read first.
func (h *historian) add(r *nodes.Home[int], _ []byte) ([]byte, error) {
	from := proctest.Monotonic()
	if r.Held() {
		h.note(noted{Kind: "ran", In: act{Key: r.Key()}, Out: outcome{Token: r.Token()}, From: from})
	}
	r.State++
	return json.Marshal(outcome{Value: r.State, Token: r.Token()})
}
