package engine

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/codec"
)

// blowUp ends a callback in a way that no callback should.
func blowUp(kind string) {
	switch kind {
	case "panic":
		panic(errors.New("on purpose"))
	case "nil":
		var s *Session
		_ = s.accepted
	case "goexit":
		runtime.Goexit()
	}
}

// A callback that panics or ends its goroutine, wherever it is, costs its own session
// and no other: that one gets ERROR 6 and a FIN, leaves its groups and closes once with
// reason panic, and the stack is logged once.
func TestPanicsCostTheirOwnSession(t *testing.T) {
	type site struct {
		name   string
		mode   Dispatch
		noFIN  bool // the session is not told: it was closing, or it isn't one
		reason Reason
	}
	sites := []site{
		{"accept", Ordered, false, ReasonPanic},
		{"accept", Inline, false, ReasonPanic},
		{"read", Ordered, false, ReasonPanic},
		{"read", Inline, false, ReasonPanic},
		{"read learned", Adaptive, false, ReasonPanic},
		{"read in a batch", Ordered, false, ReasonPanic},
		{"submit", Ordered, false, ReasonPanic},
		{"submit", Inline, false, ReasonPanic},
		{"submit from close's side", Ordered, true, ReasonServerClosed},
		{"fin", Ordered, false, ReasonPanic},
		{"close", Ordered, true, ReasonServerClosed},
		{"pool", Ordered, true, ReasonServerClosed},
		{"in a group", Ordered, false, ReasonPanic},
		{"after hold", Ordered, false, ReasonPanic},
	}
	for _, at := range sites {
		for _, kind := range []string{"panic", "nil", "goexit"} {
			t.Run(fmt.Sprintf("%s/%v/%s", at.name, at.mode, kind), func(t *testing.T) {
				t.Parallel()
				var log logText
				var mu sync.Mutex
				closes := map[ID][]Reason{}
				armed := false // accept panics for the second session only
				var victim ID
				h := &funcs{
					accept: func(s *Session) {
						mu.Lock()
						hit := armed && at.name == "accept"
						if armed {
							victim = s.ID()
						}
						mu.Unlock()
						if hit {
							blowUp(kind)
						}
					},
					fin: func(s *Session) {
						if at.name == "fin" {
							blowUp(kind)
						}
					},
					close: func(s *Session, why Reason) {
						mu.Lock()
						closes[s.ID()] = append(closes[s.ID()], why)
						mu.Unlock()
						if at.name == "close" {
							blowUp(kind)
						}
					},
				}
				h.read = func(s *Session, p codec.Packet) {
					if p.Sub != 9 {
						echo(s, p)
						return
					}
					switch at.name {
					case "submit":
						s.Submit(func() { blowUp(kind) })
					case "submit from close's side":
						s.Submit(func() { blowUp(kind) })
						s.Close()
					case "close":
						s.Close()
					case "pool":
						s.Server().Pool().Submit(func() { blowUp(kind) })
						s.Close()
					case "in a group":
						s.Server().Group("g").Join(s)
						blowUp(kind)
					case "after hold":
						s.Hold()
						blowUp(kind)
					default:
						blowUp(kind)
					}
				}
				srv := serve(t, Config{Dispatch: at.mode, Timeouts: Timeouts{Linger: 100 * time.Millisecond}, Workers: 2, SpareWorkers: Off, Logger: textLog(&log)}, h)
				other := dial(t, srv)
				other.send(1, 1, "before")
				other.expect(1, 1, "before")
				mu.Lock()
				armed = true
				mu.Unlock()
				c := dial(t, srv)
				if at.name != "accept" {
					for range 24 { // learned, where that is what matters
						c.send(1, 9-8, "x")
						c.expect(1, 1, "x")
					}
				}
				switch at.name {
				case "accept":
				case "fin":
					c.Conn.(*net.TCPConn).CloseWrite()
				case "read learned":
					srv.SetDispatch(1<<16|9, Inline)
					c.send(1, 9, "")
				case "read in a batch":
					c.Write(append(append(frame(1, 1, "in front"), frame(1, 9, "")...), frame(1, 1, "behind")...))
					c.expect(1, 1, "in front")
				default:
					c.send(1, 9, "")
				}
				if !at.noFIN {
					p, err := c.read()
					if err != nil || p.Sub != SubError || p.Body[1] != byte(CodeInternal) {
						t.Fatalf("got %v %v, want ERROR 6", p, err)
					}
				}
				c.expectEOF()
				c.Close()
				waitFor(t, "the session to go", func() bool { return srv.table.count() == 1 })
				other.send(1, 1, "after")
				other.expect(1, 1, "after")
				waitFor(t, "the panic to be counted", func() bool { return srv.Stats().Panics+srv.Stats().Pool.Panics == 1 })
				mu.Lock()
				if got := closes[victim]; len(got) != 1 || got[0] != at.reason {
					t.Errorf("closed with %v, want %v once", got, at.reason)
				}
				mu.Unlock()
				if n := srv.Group("g").Len(); n != 0 {
					t.Errorf("%d members left in the group", n)
				}
				if st := srv.Stats().Pool; st.Workers != 2 {
					t.Errorf("%d workers left", st.Workers)
				}
				srv.Stop(within(t, time.Minute))
				if got := strings.Count(log.String(), "panic in a callback"); got != 1 || !strings.Contains(log.String(), "blowUp") {
					t.Errorf("logged %d times: %s", got, log.String())
				}
			})
		}
	}
}

// A place that panics over and over is logged once and counted each time.
func TestPanicsAreLoggedOncePerPlace(t *testing.T) {
	var log logText
	srv := serve(t, Config{Timeouts: Timeouts{Linger: 20 * time.Millisecond}, Logger: textLog(&log)}, &funcs{read: func(s *Session, p codec.Packet) {
		if p.Sub == 1 {
			panic("one place")
		}
		panic("another")
	}})
	for i := range 40 {
		c := dial(t, srv)
		c.send(1, uint16(i%2), "")
		c.expectError(CodeInternal, 1<<16|uint32(i%2))
		c.expectEOF()
		c.Close()
	}
	srv.Stop(within(t, time.Minute))
	if got, n := strings.Count(log.String(), "stack="), srv.Stats().Panics; got != 2 || n != 40 {
		t.Errorf("%d stacks logged, %d counted, want 2 and 40", got, n)
	}
}
