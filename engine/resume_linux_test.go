package engine

import (
	"fmt"
	"strings"
	"sync"
	"testing"
)

// script is what a peer of the cut tests asks, and how many counted frames it gets.
func script(p *resumer) int {
	p.ask(1, 1, "one")
	p.ask(1, 2, "two")
	p.ask(1, 3, "three")
	p.ask(1, 1, strings.Repeat("four", 20))
	p.ask(1, 3, "five")
	p.ask(1, 1, "")
	return 8
}

// A connection that is cut at any byte, of what is sent or of what comes, and whose
// successor is cut inside its HELLO or WELCOME or behind, brings the frames of an unbroken
// run, and each request is run once; behind every door, and on whichever loop the next
// connection is.
func TestCutAtEveryByteNothingIsLostOrDoubled(t *testing.T) {
	for _, d := range []Dispatch{Adaptive, Ordered, Inline} {
		if d == Ordered && !*long {
			continue
		}
		for _, scheme := range []string{"tcp", "tls", "ws", "wss"} {
			if d != Adaptive && scheme != "tcp" && !*long {
				continue
			}
			t.Run(fmt.Sprint(d, " ", scheme), func(t *testing.T) {
				h := newResumable()
				cfg := resumeConfig(scheme + "://127.0.0.1:0")
				cfg.Dispatch, cfg.Loops = d, 3
				srv := serve(t, cfg, h)
				whole := &resumer{url: srv.URLs()[0], ackEvery: 3}
				n := script(whole)
				if err := whole.goOn(n, nil); err != nil {
					t.Fatal(err)
				}
				requests := h.ran.Swap(0)
				up, down, _ := whole.cut.state()
				whole.close()
				from, fromDown := 1, 1
				if !*long { // a cut in front of the HELLO tests the client
					from, fromDown = max(1, whole.opened[0]-50), max(1, whole.opened[1]-50)
				}
				var runs []cuts
				step := 1
				if scheme != "tcp" && !*long {
					step = 11
				} else if d != Adaptive && !*long {
					step = 3
				}
				for i := from; i < up; i += step {
					runs = append(runs, cuts{{i, -1}})
				}
				for i := fromDown; i < down; i += step {
					runs = append(runs, cuts{{-1, i}})
				}
				for i := 1; i < min(up, 150); i += 3*step - 2 {
					runs = append(runs, cuts{{-1, down - 20}, {i, -1}}, cuts{{-1, down / 2}, {-1, i}, {-1, i}, {i, -1}})
				}
				run := func(c cuts) {
					p := &resumer{url: whole.url, ackEvery: 3}
					script(p)
					if err := p.goOn(n, c); err != nil {
						t.Errorf("cut at %v: %v", c, err)
						return
					}
					if !sameFrames(p.got, whole.got) {
						t.Errorf("cut at %v: got %s want %s", c, show(p.got), show(whole.got))
					}
					p.write(SubBye, nil)
					p.close()
				}
				jobs := make(chan cuts)
				var wg sync.WaitGroup
				for range 8 {
					wg.Go(func() {
						for c := range jobs {
							run(c)
						}
					})
				}
				for _, c := range runs {
					jobs <- c
				}
				close(jobs)
				wg.Wait()
				if got, want := h.ran.Load(), requests*int64(len(runs)); got != want {
					t.Errorf("%d requests were run in %d runs, want %d", got, len(runs), want)
				}
				if h.resumed.Load() < 10 { // most bytes of TLS are its handshake's
					t.Errorf("%d sessions were resumed in %d runs", h.resumed.Load(), len(runs))
				}
				t.Logf("%d runs, %d bytes up, %d down; %d resumed", len(runs), up, down, h.resumed.Load())
			})
		}
	}
}
