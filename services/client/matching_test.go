package client_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"millrace/codec"
	"millrace/services/client"
)

// holder is a server that answers a request when the next one comes, but for those that
// end in "!".
func holder(f *atomic.Pointer[codec.Packet]) func(*peer, codec.Packet) {
	return func(p *peer, pk codec.Packet) {
		pk = pk.Clone()
		if old := f.Swap(&pk); old != nil {
			p.send(*old)
		}
		if pk.Body[len(pk.Body)-1] == '!' {
			f.Store(nil)
			p.send(pk)
		}
	}
}

// The late answer of an abandoned call is discarded, and the call's place among MaxCalls is free at
// once.
func TestALateAnswerGoesToNobody(t *testing.T) {
	for name, layout := range map[string]codec.Layout{"by order": {}, "by sequence number": {Seq: true}} {
		t.Run(name, func(t *testing.T) {
			var held atomic.Pointer[codec.Packet]
			c := listen(t, layout, holder(&held)).dial(func(cfg *client.Config) { cfg.Layout, cfg.MaxCalls = layout, 1 })
			for i := range 20 {
				ctx, cancel := context.WithCancel(soon(t))
				done := make(chan error, 1)
				go func() {
					_, err := c.Do(ctx, hEcho, fmt.Appendf(nil, "late %d", i))
					done <- err
				}()
				for held.Load() == nil {
					time.Sleep(time.Millisecond)
				}
				cancel()
				if err := <-done; !errors.Is(err, context.Canceled) {
					t.Fatalf("got %v", err)
				}
				text := fmt.Sprintf("%d!", i)
				if b, err := c.Do(soon(t), hEcho, []byte(text)); string(b) != text || err != nil {
					t.Fatalf("got %q, %v, want %q", b, err, text)
				}
			}
			if n, _ := c.Stats(); n != 1 {
				t.Errorf("%d connections, want 1", n)
			}
		})
	}
}

// A call that is never answered must not block the later answers of its handle for ever.
func TestAnAnswerThatNeverComesEndsTheConnection(t *testing.T) {
	var first atomic.Bool
	f := listen(t, codec.Layout{}, func(p *peer, pk codec.Packet) {
		if first.Swap(true) {
			p.send(pk)
		}
	})
	c := f.dial(func(cfg *client.Config) { cfg.MaxLate = 100 * time.Millisecond })
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if _, err := c.Do(ctx, hEcho, []byte("lost")); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	for i := range 1000 {
		text := fmt.Sprint(i)
		ctx, cancel := context.WithTimeout(soon(t), 30*time.Millisecond)
		b, err := c.Do(ctx, hEcho, []byte(text))
		cancel()
		switch {
		case errors.Is(err, client.ErrLost), errors.Is(err, context.DeadlineExceeded):
		case err != nil || string(b) != text:
			t.Fatalf("got %q, %v, want %q", b, err, text)
		default:
			if n, _ := c.Stats(); n < 2 {
				t.Errorf("answered on the first connection")
			}
			return
		}
	}
	t.Error("never answered")
}

// Two answers to one call: matched by order, the second could belong to the next call, so the
// connection is closed; matched by sequence number, it is discarded.
func TestAnAnswerTooManyReachesNobody(t *testing.T) {
	for name, layout := range map[string]codec.Layout{"by order": {}, "by sequence number": {Seq: true}} {
		t.Run(name, func(t *testing.T) {
			f := listen(t, layout, func(p *peer, pk codec.Packet) {
				p.send(pk)
				p.send(pk)
			})
			c := f.dial(func(cfg *client.Config) { cfg.Layout = layout })
			if b, err := c.Do(soon(t), hEcho, []byte("x")); string(b) != "x" || err != nil {
				t.Fatalf("got %q, %v", b, err)
			}
			for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
				if _, n := c.Stats(); n > 0 {
					break
				} else if time.Now().After(end) {
					t.Fatal("the second answer was not noticed")
				}
			}
			if layout.Seq {
				if b, err := c.Do(soon(t), hEcho, []byte("y")); string(b) != "y" || err != nil {
					t.Errorf("got %q, %v", b, err)
				}
				return
			}
			for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
				if n, _ := c.Stats(); n > 1 {
					break
				} else if time.Now().After(end) {
					t.Fatal("the connection goes on")
				}
			}
		})
	}
}

func TestSendAndCallsOnOneHandle(t *testing.T) {
	c := listen(t, codec.Layout{}, echo).dial(nil)
	if err := c.Send(soon(t), hEcho, []byte("sent")); err != nil {
		t.Fatal(err)
	}
	if b, err := c.Do(soon(t), hEcho, []byte("called")); !errors.Is(err, client.ErrMixed) {
		t.Errorf("got %q, %v, want ErrMixed", b, err)
	}
	if b, err := c.Do(soon(t), hEcho+1, []byte("x")); string(b) != "x" || err != nil {
		t.Errorf("another handle: got %q, %v", b, err)
	}
	c.On(hEcho+2, func(codec.Packet) {})
	if _, err := c.Do(soon(t), hEcho+2, nil); !errors.Is(err, client.ErrMixed) {
		t.Errorf("a handle of On: got %v, want ErrMixed", err)
	}
	layout := codec.Layout{Seq: true}
	c = listen(t, layout, echo).dial(func(cfg *client.Config) { cfg.Layout = layout })
	heard := make(chan string, 10)
	c.On(hEcho, func(p codec.Packet) { heard <- string(p.Body) })
	if err := c.Send(soon(t), hEcho, []byte("sent")); err != nil {
		t.Fatal(err)
	}
	if b, err := c.Do(soon(t), hEcho, []byte("called")); string(b) != "called" || err != nil {
		t.Errorf("with numbers: got %q, %v", b, err)
	}
	if text := <-heard; text != "sent" {
		t.Errorf("heard %q", text)
	}
}

// OnConnect logs in on each connection before anything else is sent on it.
func TestOnConnectCallsBeforeAllOthers(t *testing.T) {
	hLogin, hDrop := client.Handle(4, 2), client.Handle(1, 9)
	in := map[*peer]bool{}
	refuse := true // the first login
	f := listen(t, codec.Layout{}, func(p *peer, pk codec.Packet) {
		p.f.mu.Lock()
		defer p.f.mu.Unlock()
		switch {
		case pk.Handle() == hLogin && refuse:
			refuse = false
			p.error(8, pk, "no")
		case pk.Handle() == hLogin:
			in[p] = true
			p.send(pk)
		case !in[p]:
			p.error(8, pk, "not logged in")
		case pk.Handle() == hDrop:
			_ = p.Close()
		default:
			p.send(pk)
		}
	})
	c := f.dial(func(cfg *client.Config) {
		cfg.MaxBackoff = 10 * time.Millisecond
		cfg.OnConnect = func(ctx context.Context, c *client.Client) error {
			_, err := c.Do(ctx, hLogin, nil)
			return err
		}
	})
	for i := range 20 {
		if b, err := c.Do(soon(t), hEcho, []byte("x")); string(b) != "x" || err != nil {
			t.Fatalf("%d: got %q, %v", i, b, err)
		}
		if _, err := c.Do(soon(t), hDrop, nil); !errors.Is(err, client.ErrLost) {
			t.Fatalf("%d: got %v, want ErrLost", i, err)
		}
	}
	if n, _ := c.Stats(); n < 21 {
		t.Errorf("%d connections, want one more than losses and the refused login", n)
	}
}

func TestGoAwayNamesWhereToGo(t *testing.T) {
	other := listen(t, codec.Layout{}, func(p *peer, pk codec.Packet) {
		p.send(codec.Packet{Main: pk.Main, Sub: pk.Sub, Body: []byte("other")})
	})
	f := listen(t, codec.Layout{}, func(p *peer, pk codec.Packet) {
		p.send(codec.Packet{Sub: 4, Body: append(binary.BigEndian.AppendUint32(nil, 1000), other.ln.Addr().String()...)})
		p.send(pk)
	})
	c := f.dial(nil)
	if b, err := c.Do(soon(t), hEcho, []byte("x")); string(b) != "x" || err != nil {
		t.Fatalf("got %q, %v", b, err)
	}
	if b, err := c.Do(soon(t), hEcho, []byte("x")); string(b) != "other" || err != nil {
		t.Errorf("got %q, %v, want the other server's answer", b, err)
	}
	(<-other.peers).Close()
	for range 50 { // the other one is asked only once
		if b, err := c.Do(soon(t), hEcho, []byte("x")); err == nil && string(b) == "x" {
			return
		}
	}
	t.Error("it never came back to its own addresses")
}
