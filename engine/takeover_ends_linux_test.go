package engine

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/codec"
)

// A session that can't be had is begun anew at once, and stays where it was; its client finds
// it there again.
func TestSessionThatDoesNotCome(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(w *town, h *handed)
		want error
	}{
		"too large":   {func(w *town, h *handed) { w.most = 4 }, ErrTransferTooLarge},
		"not taken":   {func(w *town, h *handed) { h.refuse.Store(true) }, nil},
		"no handler":  {func(w *town, h *handed) { w.servers[0].SetHandler(h.resumable) }, ErrNoHandoff},
		"taken back":  {func(w *town, h *handed) { w.between = (*Departure).Cancel }, ErrClosed},
		"is replaced": {func(w *town, h *handed) { w.between = func(d *Departure) { d.Session.Close() } }, ErrClosed},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHanded()
			w := newTown(t, 2, resumeConfig("tcp://127.0.0.1:0"), h)
			p := &resumer{urls: w.urls, ackEvery: 1}
			if err := p.connect(-1, -1); err != nil {
				t.Fatal(err)
			}
			p.ask(1, 3, "one")
			p.want(t, 2)
			p.close()
			w.mu.Lock()
			c.do(w, h)
			w.mu.Unlock()
			was := p.tokens
			if err := p.connect(-1, -1); !errors.Is(err, errLost) {
				t.Fatalf("got %v, want a new session", err)
			}
			p.close()
			waitFor(t, "an error", func() bool { w.mu.Lock(); defer w.mu.Unlock(); return len(w.errs) > 0 })
			if c.want != nil && !errors.Is(w.errs[0], c.want) {
				t.Errorf("got %v, want %v", w.errs[0], c.want)
			}
			if name == "is replaced" {
				return
			}
			p.tokens = was
			if err := p.connect(-1, -1); err != nil { // the first server
				t.Fatalf("where it was: %v", err)
			}
			p.ask(1, 1, "two")
			p.want(t, 3)
			if string(p.got[2].Body) != "two" {
				t.Errorf("got %s", show(p.got))
			}
		})
	}
}

// A session with a request under way goes when that has been answered.
func TestSessionGoesWhenItOwesNothing(t *testing.T) {
	h := newHanded()
	free := make(chan func(), 1)
	read := h.read
	h.read = func(s *Session, p codec.Packet) {
		if p.Sub != 8 {
			read(s, p)
			return
		}
		p, release := p.Clone(), s.Hold()
		free <- func() {
			s.Reply(p, []byte("at last"))
			release()
		}
	}
	w := newTown(t, 2, resumeConfig("tcp://127.0.0.1:0"), h)
	p := &resumer{urls: w.urls, ackEvery: 1}
	if err := p.connect(-1, -1); err != nil {
		t.Fatal(err)
	}
	p.ask(1, 8, strings.Repeat("x", 10))
	answer := <-free
	p.close()
	time.AfterFunc(50*time.Millisecond, answer)
	if err := p.connect(-1, -1); err != nil {
		t.Fatal(err)
	}
	p.want(t, 1)
	if string(p.got[0].Body) != "at last" || w.servers[1].Stats().TakenOver != 1 {
		t.Errorf("got %s", show(p.got))
	}
}

// Two connections that come to two servers with one token: one goes on, and the other gets a
// new session.
func TestOneOfTwoTakesTheSession(t *testing.T) {
	h := newHanded()
	w := newTown(t, 3, resumeConfig("tcp://127.0.0.1:0"), h)
	for range 50 {
		p := &resumer{url: w.urls[0], ackEvery: 1}
		if err := p.connect(-1, -1); err != nil {
			t.Fatal(err)
		}
		p.ask(1, 1, "one")
		p.want(t, 1)
		var wg sync.WaitGroup
		var won atomic.Int64
		for i := range 2 {
			q := &resumer{url: w.urls[1+i], ackEvery: 1, tokens: slices.Clone(p.tokens[:1]), received: p.received, sent: slices.Clone(p.sent)}
			wg.Go(func() {
				defer q.close()
				switch err := q.connect(-1, -1); {
				case err == nil:
					q.ask(1, 1, "mine")
					if q.next() == nil { // the other may have taken it from here
						won.Add(1)
					}
				case !errors.Is(err, errLost) && !errors.Is(err, errCut):
					t.Log(err)
				}
				q.write(SubBye, nil)
			})
		}
		wg.Wait()
		p.close()
		if won.Load() != 1 {
			t.Fatalf("%d of two go on with the session", won.Load())
		}
	}
}

// The last frames of a session that has been given away can be had when its server has stopped, which
// it may do as soon as that session has ended.
func TestRestOutlivesItsServer(t *testing.T) {
	srv, token, p := leftBehind(t)
	ctx := context.Background()
	d, err := srv.Depart(ctx, SumOf(token), p.received, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Session.Push(1, 1, []byte("last")); err != nil || !d.Commit() {
		t.Fatalf("it does not go: %v", err)
	}
	said := make(chan error, 1)
	go func() { _, err := d.Rest(ctx); said <- err }()
	if err := srv.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-said; err != nil {
		t.Errorf("while it stops: %v", err)
	}
	for range 64 {
		rest, err := d.Rest(ctx)
		if err != nil || !bytes.Contains(rest, []byte("last")) {
			t.Fatalf("when it has stopped: %q, %v", rest, err)
		}
	}
}
