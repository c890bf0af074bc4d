package frametest

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/codec"
	"millrace/engine"
	"millrace/internal/tally"
)

var raced bool // the race detector runs, which allocates

var manyCores = flag.Bool("cores", false, "also with 4, 16 and 32 loops, and print the tables of docs/sharing.md")

// handler echoes, and sends what is asked for to all, or to a group.
type handler struct{ rooms []*engine.Group }

const (
	subEcho  = 1
	subCast  = 2 // a broadcast
	subGroup = 3 // a group send to the session's own group
	subJoin  = 4 // joins the group that the body's first byte names
)

func (h *handler) OnSocketAccept(*engine.Session)               {}
func (h *handler) OnSocketClose(*engine.Session, engine.Reason) {}

func (h *handler) OnSocketRead(s *engine.Session, p codec.Packet) {
	switch p.Sub {
	case subEcho:
		s.Reply(p, p.Body)
	case subCast:
		s.Broadcast(1, subCast, p.Body)
	case subGroup:
		s.SendGroup(s.Value().(*engine.Group), 1, subGroup, p.Body)
	case subJoin:
		g := h.rooms[int(p.Body[0])%len(h.rooms)]
		s.SetValue(g)
		g.Join(s)
		s.Reply(p, p.Body)
	}
}

// shape is a fixed input: each of so many connections sends so many frames at once, and the
// next ones when all answers are there.
type shape struct {
	loops, conns, pipe, body int
	dispatch                 engine.Dispatch
	sub                      uint16
	answers                  int // frames that each connection gets in a round
	room                     int // members of a group
}

// bench is a server and its clients.
type bench struct {
	shape
	srv   *engine.Server
	conns []net.Conn
	out   []byte
	in    [][]byte
}

// start starts a server with as many processors as loops.
func start(t *testing.T, s shape) *bench {
	t.Helper()
	before := runtime.GOMAXPROCS(s.loops)
	t.Cleanup(func() { runtime.GOMAXPROCS(before) })
	h := &handler{}
	srv, err := engine.New(engine.Config{Addrs: []string{"tcp://127.0.0.1:0"}, Loops: s.loops, Dispatch: s.dispatch, Logger: slog.New(slog.DiscardHandler),
		Timeouts: engine.Timeouts{FirstFrameTimeout: engine.Off, IdleTimeout: engine.Off}}, h)
	if err != nil {
		t.Fatal(err)
	}
	if err := srv.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	b := &bench{shape: s, srv: srv}
	t.Cleanup(func() {
		for _, c := range b.conns {
			c.Close()
		}
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := srv.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	for i := range max(1, s.conns/max(s.room, 1)) {
		h.rooms = append(h.rooms, srv.Group(fmt.Sprint("room ", i)))
	}
	for range s.pipe {
		b.out = codec.Packet{Main: 1, Sub: s.sub, Body: make([]byte, s.body)}.Append(b.out)
	}
	for i := range s.conns {
		c, err := net.Dial("tcp", srv.Addrs()[0].String())
		if err != nil {
			t.Fatal(err)
		}
		b.conns = append(b.conns, c)
		b.in = append(b.in, make([]byte, s.answers*(len(b.out)/s.pipe)))
		if s.room > 0 {
			join := codec.Packet{Main: 1, Sub: subJoin, Body: []byte{byte(i / s.room)}}.Append(nil)
			if _, err := c.Write(join); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(c, make([]byte, len(join))); err != nil {
				t.Fatal(err)
			}
		}
	}
	return b
}

// run plays rounds with a few clients, each with connections of its own. They allocate
// nothing for each round.
func (b *bench) run(t *testing.T, rounds int) {
	t.Helper()
	const clients = 4
	var wg sync.WaitGroup
	for k := range clients {
		wg.Go(func() {
			for i := k; i < len(b.conns); i += clients {
				b.conns[i].SetDeadline(time.Now().Add(2 * time.Minute))
			}
			for range rounds {
				if err := b.round(k, clients); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

func (b *bench) round(k, clients int) error {
	for i := k; i < len(b.conns); i += clients {
		if _, err := b.conns[i].Write(b.out); err != nil {
			return err
		}
	}
	for i := k; i < len(b.conns); i += clients {
		if _, err := io.ReadFull(b.conns[i], b.in[i]); err != nil {
			return err
		}
		n := len(b.out) / b.pipe
		for in := b.in[i]; len(in) > 0; in = in[n:] {
			if !bytes.Equal(in[:n], b.out[:n]) {
				return fmt.Errorf("connection %d got %x", i, in[:n])
			}
		}
	}
	return nil
}

// price is what was counted, for each frame that the server read.
type price struct {
	allocs, writes float64 // of the heap; of system calls that write
	turns          float64 // turns of workers
	loopTurns      float64
	locks, waited  float64 // taken; and of them those that somebody else had
	each           map[string]tally.Count
	frames         float64
}

// per is how often something that tally counts happened for each frame.
func (p *price) per(name string) float64 { return float64(p.each[name].Times) / p.frames }

// measure is what rounds cost, behind half as many that warm up.
func (b *bench) measure(t *testing.T, rounds int) *price {
	t.Helper()
	b.run(t, rounds/2)
	var m0, m1 runtime.MemStats
	st0 := b.srv.Stats()
	runtime.ReadMemStats(&m0)
	tally.Reset()
	b.run(t, rounds)
	p := &price{each: tally.Read()}
	runtime.ReadMemStats(&m1)
	st1 := b.srv.Stats()
	p.frames = float64(st1.FramesIn - st0.FramesIn)
	if want := float64(rounds * b.shape.conns * b.pipe); p.frames != want {
		t.Fatalf("%v frames were read of %v", p.frames, want)
	}
	p.allocs = float64(m1.Mallocs-m0.Mallocs) / p.frames
	for i := range st1.Loops {
		p.writes += float64(st1.Loops[i].Writes-st0.Loops[i].Writes) / p.frames
		p.loopTurns += float64(st1.Loops[i].Turns-st0.Loops[i].Turns) / p.frames
	}
	p.turns = float64(st1.Pool.Ran-st0.Pool.Ran) / p.frames
	for name, c := range p.each {
		if !isWrite(name) && !slices.Contains(byTime, name) {
			p.locks += float64(c.Times) / p.frames
			p.waited += float64(c.Waited) / p.frames
		}
	}
	return p
}

// byTime are functions that take locks as time goes by, however many frames there are.
var byTime = []string{"millrace/engine.(*Server).ticker", "millrace/engine/internal/sched.(*Pool).look", "millrace/engine/internal/sched.(*Pool).retireSpare",
	"millrace/engine/internal/sched.(*Pool).totals", "millrace/engine/internal/sched.(*Pool).Stats"}

// isWrite tells whether a name is one that tally.Note was given, and no lock.
func isWrite(name string) bool { return !strings.Contains(name, ".") }
