package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"millrace/internal/faultproxy"
	"millrace/internal/proctest"
)

// The connections of all clients of a node break, and they come to another one; while their
// sessions are on their way the first node is killed, stands still, or loses the bus. Each
// client soon has a session: its own, of which nothing is missing and nothing is doubled, or,
// told so, a new one.
func TestHandoverIsCutShort(t *testing.T) {
	t.Parallel()
	clients := 60
	if *long {
		clients = 1000
	}
	for name, fault := range map[string]func(t *testing.T, a *process, bus *faultproxy.Proxy){
		"killed":       func(t *testing.T, a *process, _ *faultproxy.Proxy) { a.signal(syscall.SIGKILL) },
		"stands still": func(t *testing.T, a *process, _ *faultproxy.Proxy) { proctest.Suspend(t, a.cmd.Process) },
		"bus cut":      func(t *testing.T, _ *process, bus *faultproxy.Proxy) { bus.Cut() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, srv := natsServer(t)
			u, err := url.Parse(srv.URL())
			if err != nil {
				t.Fatal(err)
			}
			bus := faultproxy.New(t, u.Host)
			u.Host = bus.Addr()
			b := moveNode(t, "embedded", dir, "b")
			a := moveNode(t, u.String(), dir, "a")
			b.dial().knows("a=up b=up")
			a.dial().knows("a=up b=up")
			front := faultproxy.New(t, strings.TrimPrefix(a.ready[0], "tcp://"))
			var all []*mover
			for i := range clients {
				all = append(all, dialMover(t, fmt.Sprint("u", i), time.Duration(i+1)*time.Second/time.Duration(clients), "tcp://"+front.Addr(), b.ready[0]))
			}
			toAll := send(t, pace(clients), b.ready[0], "all", 1, 7, func(n int) string { return fmt.Sprintf(`{"group":"all","data":"all %d"}`, n) })
			for _, m := range all {
				m.want(t, "all", 20, nil)
			}
			bus.Delay(30 * time.Millisecond) // so that many are on their way at a time
			front.Cut()
			for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
				n := 0
				for _, m := range all {
					if m.ResumeStats().Resumed > 0 {
						n++
					}
				}
				if n > clients/10 {
					break
				}
				if time.Now().After(end) {
					t.Fatalf("%d of %d sessions have come", n, clients)
				}
			}
			fault(t, a, bus)
			begun := time.Now()
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			var wg sync.WaitGroup
			for _, m := range all {
				wg.Go(func() {
					for m.node(ctx) != "b" && ctx.Err() == nil {
						time.Sleep(10 * time.Millisecond)
					}
					if m.lost.Load() > 0 {
						m.call(ctx, 6, 3, `{"user":"`+m.user+`"}`)
					}
				})
			}
			wg.Wait()
			took := time.Since(begun)
			if name == "bus cut" {
				bus.Heal()
			}
			if name == "stands still" {
				a.signal(syscall.SIGCONT) // what it was asked is not wanted any more
				time.Sleep(200 * time.Millisecond)
			}
			toAll.stop()
			kept := 0
			y := b.dial()
			for _, m := range all {
				lost := m.lost.Load() > 0
				if !lost {
					kept++
					m.want(t, "all", toAll.last, func(n int) bool { return toAll.unsent[n] })
				} else if _, err := m.has("all", toAll.last, func(int) bool { return true }); err != nil {
					t.Error(err)
				}
				if obj, code := y.ask(6, 4, `{"user":"`+m.user+`","data":"user 0"}`); code != 0 || obj["sent"] != true {
					t.Errorf("6/4 to %s, whose session is lost: %v: %v, ERROR %d", m.user, lost, obj, code)
				}
				m.want(t, "user", 0, nil)
			}
			t.Logf("%d of %d sessions went on, all in %v", kept, clients, took)
			if kept == 0 || kept == clients {
				t.Errorf("%d of %d sessions went on: none was on its way", kept, clients)
			}
		})
	}
}

// hello says HELLO, and returns the token of the WELCOME and whether it goes on with a session.
func (p *peer) hello(token string, received uint64) (next string, resumed bool) {
	p.t.Helper()
	next, resumed, err := p.tryHello(token, received)
	if err != nil {
		p.t.Fatal(err)
	}
	return next, resumed
}

func (p *peer) tryHello(token string, received uint64) (next string, resumed bool, err error) {
	body := "\x01\x00"
	if token != "" {
		body += token + string(binary.BigEndian.AppendUint64(nil, received))
	}
	p.send(0, 5, body)
	w, err := p.next()
	if err == nil && (w.main != 0 || w.sub != 6 || len(w.body) != 25) {
		err = fmt.Errorf("no WELCOME: %v", w)
	}
	if err != nil {
		return "", false, err
	}
	return w.body[1:17], w.body[0] == 1, nil
}

// Two nodes are asked for one session by its token at the same time: one connection goes on
// with it. A token of nobody, or of a node that is no more, is answered by a new session at
// once.
func TestATokenIsTakenOnce(t *testing.T) {
	t.Parallel()
	dir, _ := natsServer(t)
	a, b, c := moveNode(t, "embedded", dir, "a"), moveNode(t, "embedded", dir, "b"), moveNode(t, "embedded", dir, "c")
	for _, p := range []*process{a, b, c} {
		p.dial().knows("a=up b=up c=up")
	}
	for round := range 20 {
		x := a.dial()
		token, _ := x.hello("", 0)
		if obj, code := x.ask(6, 3, `{"user":"ann"}`); code != 0 {
			t.Fatalf("6/3: %v, ERROR %d", obj, code)
		}
		peers := []*peer{b.dial(), c.dial()}
		lives := make([]bool, 2)
		var wg sync.WaitGroup
		for i, p := range peers {
			wg.Go(func() {
				_, resumed, err := p.tryHello(token, 1)
				if err != nil || !resumed {
					return
				}
				p.send(1, 1, "mine")
				for err == nil && !lives[i] {
					var f packet
					f, err = p.next() // the other may take it from here
					lives[i] = err == nil && f.main == 1 && f.body == "mine"
				}
			})
		}
		wg.Wait()
		if lives[0] == lives[1] {
			t.Fatalf("round %d: of two connections with one session go on: %v", round, lives)
		}
		y := a.dial()
		if obj, code := y.ask(6, 4, `{"user":"ann","data":"1"}`); code != 0 || obj["sent"] != true {
			t.Fatalf("round %d: 6/4: %v, ERROR %d", round, obj, code)
		}
		for i, p := range peers {
			if lives[i] {
				p.want(6, 6, `{"user":"ann","data":"1","node":"a"}`)
			}
			p.Close()
		}
		x.Close()
		y.Close()
	}
	for _, token := range []string{strings.Repeat("x", 16)} {
		begun := time.Now()
		if _, resumed := b.dial().hello(token, 0); resumed {
			t.Error("nobody's token goes on with a session")
		}
		t.Logf("a token of nobody is answered in %v", time.Since(begun))
	}
}
