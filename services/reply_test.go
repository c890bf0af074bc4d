package services_test

import (
	"encoding/binary"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/codec"
	"millrace/engine"
	"millrace/services"
	"millrace/services/serial"
)

type order struct {
	ID   int  `json:"id"`
	Wait bool `json:"wait,omitempty"`
}

// gate holds replies back until the test lets them go.
type gate struct {
	mu   sync.Mutex
	held map[int]*services.Reply
}

func newGate() *gate { return &gate{held: map[int]*services.Reply{}} }

func (g *gate) hold(id int, r *services.Reply) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held[id] = r
}

func (g *gate) take(t *testing.T, id int) *services.Reply {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
		g.mu.Lock()
		r := g.held[id]
		delete(g.held, id)
		g.mu.Unlock()
		if r != nil {
			return r
		}
	}
	t.Fatalf("request %d did not arrive", id)
	return nil
}

// deferring is a service that answers later when asked to.
func (g *gate) deferring() services.Stages[order, order] {
	return services.Stages[order, order]{
		Handle: func(ctx *services.Context, req, res *order) error {
			res.ID = req.ID
			if req.Wait {
				g.hold(req.ID, ctx.Defer())
			} else if req.ID < 0 {
				return services.Errorf(engine.CodeConflict, "below zero")
			}
			return nil
		},
		Last: func(_ *services.Context, _, res *order) error {
			res.ID *= 10
			return nil
		},
	}
}

// wire is a bare connection, to see what arrives and when.
type wire struct {
	testing.TB
	net.Conn
	r *codec.Reader
}

func (r *rig) wire() *wire {
	r.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(r.srv.Addrs()[0].String(), "tcp://"))
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { _ = conn.Close() })
	return &wire{r.TB, conn, codec.NewReader(conn, nil)}
}

func (w *wire) send(handle uint32, body string) {
	w.Helper()
	main, sub := codec.Split(handle)
	if _, err := w.Write(codec.Packet{Main: main, Sub: sub, Body: []byte(body)}.Append(nil)); err != nil {
		w.Fatal(err)
	}
}

// next reads a frame as "main/sub body", an ERROR as "error code main/sub".
func (w *wire) next() string {
	w.Helper()
	_ = w.SetReadDeadline(time.Now().Add(time.Minute))
	p, err := w.r.Next()
	if err != nil {
		return err.Error()
	}
	if p.Main == 0 && p.Sub == 3 {
		h := binary.BigEndian.Uint32(p.Body[2:])
		return fmt.Sprintf("error %d %d/%d", binary.BigEndian.Uint16(p.Body), h>>16, h&0xffff)
	}
	return fmt.Sprintf("%d/%d %s", p.Main, p.Sub, p.Body)
}

func (w *wire) want(frames ...string) {
	w.Helper()
	for _, want := range frames {
		if got := w.next(); got != want {
			w.Fatalf("got %q, want %q", got, want)
		}
	}
}

func TestDeferredAnswersKeepTheOrderOfTheirHandle(t *testing.T) {
	g := newGate()
	r := serve(t, nil, func(c *services.Controller) {
		must(t, services.Register(c, hOther, g.deferring()))
		must(t, services.Register(c, hOther+1, g.deferring()))
		must(t, services.Register(c, hSum, sum))
	})
	w := r.wire()
	w.send(hOther, `{"id":1,"wait":true}`)
	w.send(hOther, `{"id":2,"wait":true}`)
	w.send(hOther, `{"id":3}`)
	w.send(hOther, `{"id":-4}`)
	w.send(hOther, `bad`)
	w.send(hOther, `{"id":6,"wait":true}`)
	w.send(hOther+1, `{"id":7,"wait":true}`)
	w.send(hSum, `{"a":1,"b":1}`)
	w.want(`4/3 {"sum":2,"trace":["pre","handle","last"]}`) // other handles go on
	g.take(t, 6).Done(nil, nil)
	g.take(t, 2).Done(order{ID: 22}, nil)
	g.take(t, 7).Done(&order{ID: 77}, nil)
	w.want(`9/2 {"id":770}`) // only its own handle waits
	g.take(t, 1).Done(nil, nil)
	w.want(`9/1 {"id":10}`, `9/1 {"id":220}`, `9/1 {"id":30}`, `error 9 9/1`, `error 3 9/1`, `9/1 {"id":60}`)
	if s := r.c.Stats(); s.Deferred != 0 {
		t.Errorf("stats: %+v", s)
	}
}

func TestDoneInEveryWay(t *testing.T) {
	type stages = services.Stages[order, order]
	var late atomic.Pointer[services.Reply]
	cases := []struct {
		name   string
		handle func(ctx *services.Context, req, res *order) error
		want   string
	}{
		{"before the stage returns", func(ctx *services.Context, _, _ *order) error {
			ctx.Defer().Done(order{ID: 1}, nil)
			return nil
		}, `{"id":10}`},
		{"here, before the stage returns", func(ctx *services.Context, _, _ *order) error {
			ctx.Defer().DoneHere(order{ID: 2}, nil)
			return nil
		}, `{"id":20}`},
		{"from another goroutine", func(ctx *services.Context, _, _ *order) error {
			reply := ctx.Defer()
			go reply.Done(order{ID: 3}, nil)
			return nil
		}, `{"id":30}`},
		{"from a timer, twice", func(ctx *services.Context, _, _ *order) error {
			reply := ctx.Defer()
			if ctx.Defer() != reply {
				t.Error("a second Defer gave another reply")
			}
			_, err := services.After(ctx, 0.005, hOther+50, order{ID: 4})
			time.AfterFunc(10*time.Millisecond, func() {
				reply.Done(order{ID: 4}, nil)
				reply.Done(order{ID: 5}, nil)
			})
			return err
		}, `{"id":40}`},
		{"with an error", func(ctx *services.Context, _, _ *order) error {
			ctx.Defer().Done(nil, services.Errorf(engine.CodeNotFound, "no"))
			return nil
		}, "error 10"},
		{"deferred, then failed", func(ctx *services.Context, _, _ *order) error {
			late.Store(ctx.Defer())
			return services.Errorf(engine.CodeConflict, "no")
		}, "error 9"},
		{"with another type", func(ctx *services.Context, _, _ *order) error {
			ctx.Defer().Done("text", nil)
			return nil
		}, "error 6"},
		{"never", func(ctx *services.Context, _, _ *order) error {
			ctx.Defer()
			return nil
		}, "error 5"},
		{"answer", func(ctx *services.Context, _, _ *order) error {
			ctx.Defer().Done(order{ID: 6}, services.Answer) // without Last
			return nil
		}, `{"id":6}`},
	}
	r := serve(t, func(cc *services.ControllerConfig, _ *engine.Config) { cc.Timeout = 3 * time.Second }, func(c *services.Controller) {
		for i, tc := range cases {
			must(t, services.Register(c, services.Handle(30, uint16(i)), stages{Handle: tc.handle, Last: newGate().deferring().Last}))
		}
		must(t, services.Register(c, hOther+50, services.Stages[order, services.None]{
			Handle: func(*services.Context, *order, *services.None) error { return nil }}))
		must(t, services.Register(c, hOther, stages{Handle: func(ctx *services.Context, _, _ *order) error {
			ctx.Defer().Done(nil, services.Stop)
			return nil
		}}, services.OneWay()))
	})
	w := r.wire()
	w.send(hOther, `{"id":1}`) // Stop: no answer, and nobody waits behind it
	for i, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			w.send(services.Handle(30, uint16(i)), `{"id":1}`)
			want := fmt.Sprintf("30/%d %s", i, tc.want)
			if strings.HasPrefix(tc.want, "error") {
				want = fmt.Sprintf("%s 30/%d", tc.want, i)
			}
			if got := w.next(); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
	late.Load().Done(order{ID: 9}, nil)
	w.send(services.Handle(30, 0), `{"id":1}`)
	w.want(`30/0 {"id":10}`)
	if s := r.c.Stats(); s.Deferred != 0 {
		t.Errorf("stats: %+v", s)
	}
}

func TestAFinWaitsForDeferredAnswers(t *testing.T) {
	g := newGate()
	var ended atomic.Int32
	r := serve(t, nil, func(c *services.Controller) {
		st := g.deferring()
		handle := st.Handle
		st.Handle = func(ctx *services.Context, req, res *order) error {
			if req.ID == 2 {
				reply := ctx.Defer()
				reply.OnEnd(func() {
					ended.Add(1)
					reply.Done(order{ID: 22}, nil)
				})
				return nil
			}
			return handle(ctx, req, res)
		}
		must(t, services.Register(c, hOther, st))
	})
	w := r.wire()
	w.send(hOther, `{"id":1,"wait":true}`)
	w.send(hOther, `{"id":2,"wait":true}`)
	reply := g.take(t, 1)
	must(t, w.Conn.(*net.TCPConn).CloseWrite())
	time.Sleep(50 * time.Millisecond)
	reply.Done(nil, nil)
	w.want(`9/1 {"id":10}`, `9/1 {"id":220}`, "EOF")
	if ended.Load() != 1 {
		t.Errorf("OnEnd ran %d times", ended.Load())
	}
}

// A session that closes before the answer is there: nothing is sent, nothing
// stays behind, and the next client of the slot gets nothing.
func TestALateAnswerReachesNobody(t *testing.T) {
	g := newGate()
	r := serve(t, nil, func(c *services.Controller) {
		must(t, services.Register(c, hOther, g.deferring()))
		must(t, services.Register(c, hSum, sum))
	})
	const rounds = 50
	for i := range rounds {
		w := r.wire()
		w.send(hOther, fmt.Sprintf(`{"id":%d,"wait":true}`, i))
		reply := g.take(t, i)
		must(t, w.Conn.(*net.TCPConn).SetLinger(0))
		must(t, w.Close()) // a reset
		if i%2 == 0 {      // sometimes after the server has seen it
			r.gone()
		}
		next := r.wire()
		reply.Done(nil, nil)
		next.send(hSum, `{"a":1,"b":1}`)
		next.want(`4/3 {"sum":2,"trace":["pre","handle","last"]}`)
		must(t, next.Close())
		r.gone()
	}
	// Every second one was answered when the server knew; of the others some
	// were written to a connection that was about to go.
	if s := r.c.Stats(); s.Deferred != 0 || s.Stale < rounds/2 {
		t.Errorf("stats: %+v, want at least %d stale", s, rounds/2)
	}
}

// gone waits until the server has no session.
func (r *rig) gone() {
	r.Helper()
	for end := time.Now().Add(time.Minute); r.srv.Stats().Conns > 0; time.Sleep(100 * time.Microsecond) {
		if time.Now().After(end) {
			r.Fatal("sessions stay")
		}
	}
}

func TestTooManyAnswersOwed(t *testing.T) {
	g := newGate()
	r := serve(t, func(cc *services.ControllerConfig, _ *engine.Config) { cc.MaxDeferred = 2 }, func(c *services.Controller) {
		must(t, services.Register(c, hOther, g.deferring()))
		must(t, services.Register(c, hOther+1, g.deferring()))
	})
	w := r.wire()
	for i := range 3 {
		w.send(hOther, fmt.Sprintf(`{"id":%d,"wait":true}`, i+1))
	}
	w.send(hOther, `{"id":4}`)
	w.send(hOther+1, `{"id":6,"wait":true}`)
	w.want("error 12 9/2") // it is the first of its handle
	g.take(t, 2).Done(nil, nil)
	g.take(t, 1).Done(nil, nil)
	w.want(`9/1 {"id":10}`, `9/1 {"id":20}`, "error 12 9/1", "error 12 9/1") // each in its turn
	w.send(hOther, `{"id":5}`)
	w.want(`9/1 {"id":50}`)
}

// Raw bytes are the packet's; a deferred request must keep its own.
func TestADeferredRequestKeepsItsBytes(t *testing.T) {
	var replies sync.Map
	r := serve(t, nil, func(c *services.Controller) {
		must(t, services.Register(c, hOther, services.Stages[[]byte, []byte]{
			Handle: func(ctx *services.Context, req, _ *[]byte) error {
				replies.Store(string(*req), ctx.Defer())
				return nil
			},
			Last: func(_ *services.Context, req, res *[]byte) error { *res = *req; return nil },
		}, services.With(serial.Raw(serial.Limits{}))))
	})
	w := r.wire()
	const n = 100
	for i := range n {
		w.send(hOther, fmt.Sprintf("body %3d", i))
	}
	for i := range n {
		for {
			if reply, ok := replies.Load(fmt.Sprintf("body %3d", i)); ok {
				reply.(*services.Reply).Done(nil, nil)
				break
			}
			time.Sleep(time.Millisecond)
		}
		w.want(fmt.Sprintf("9/1 body %3d", i))
	}
}
