package client_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"millrace/codec"
	"millrace/services/client"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a server whose every packet goes to a function.
type fake struct {
	testing.TB
	ln     net.Listener
	handle func(*peer, codec.Packet)
	peers  chan *peer
	wg     sync.WaitGroup
	codec  *codec.Codec
	mu     sync.Mutex
	open   []*peer
}

// peer is one of its connections.
type peer struct {
	net.Conn
	f *fake
}

func (p *peer) send(pk codec.Packet) {
	frame, err := p.f.codec.Append(nil, pk)
	if err != nil {
		panic(err)
	}
	_, _ = p.Write(frame)
}

func (p *peer) error(code uint16, about codec.Packet, text string) {
	b := binary.BigEndian.AppendUint16(nil, code)
	b = binary.BigEndian.AppendUint32(b, about.Handle())
	p.send(codec.Packet{Sub: 3, Seq: about.Seq, Body: append(b, text...)})
}

func listen(t testing.TB, layout codec.Layout, handle func(*peer, codec.Packet)) *fake {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cd, err := codec.New(layout, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{TB: t, ln: ln, handle: handle, peers: make(chan *peer, 100), codec: cd}
	f.wg.Go(f.accept)
	t.Cleanup(f.stop)
	return f
}

func (f *fake) stop() {
	_ = f.ln.Close()
	f.mu.Lock()
	for _, p := range f.open {
		_ = p.Close()
	}
	f.mu.Unlock()
	f.wg.Wait()
}

func (f *fake) accept() {
	for {
		conn, err := f.ln.Accept()
		if err != nil {
			return
		}
		p := &peer{conn, f}
		f.mu.Lock()
		f.open = append(f.open, p)
		f.mu.Unlock()
		f.peers <- p
		f.wg.Go(func() {
			r := codec.NewReader(conn, f.codec)
			for {
				pk, err := r.Next()
				if err != nil {
					return
				}
				f.handle(p, pk)
			}
		})
	}
}

func (f *fake) dial(change func(*client.Config)) *client.Client {
	f.Helper()
	cfg := client.Config{Addrs: []string{f.ln.Addr().String()}, MinBackoff: 5 * time.Millisecond}
	if change != nil {
		change(&cfg)
	}
	c, err := client.Dial(soon(f), cfg)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(c.Close)
	return c
}

func soon(tb testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	tb.Cleanup(cancel)
	return ctx
}

func echo(p *peer, pk codec.Packet) { p.send(pk) }

var hEcho = client.Handle(1, 1)

func TestManyCallsAtOnce(t *testing.T) {
	for name, layout := range map[string]codec.Layout{"by order": {}, "by sequence number": {Seq: true}} {
		t.Run(name, func(t *testing.T) {
			f := listen(t, layout, func(p *peer, pk codec.Packet) {
				if strings.HasSuffix(string(pk.Body), "7") {
					p.error(9, pk, string(pk.Body))
					return
				}
				p.send(pk)
			})
			c := f.dial(func(cfg *client.Config) {
				cfg.Layout = layout
				cfg.MaxCalls, cfg.MaxUnsent = 16, 200
			})
			var wg sync.WaitGroup
			for g := range 20 {
				wg.Go(func() {
					for i := range 100 {
						text := fmt.Sprintf("%d %d", g, i)
						b, err := c.Do(soon(t), client.Handle(1, uint16(g%3)), []byte(text))
						var e *client.Error
						if errors.As(err, &e) && e.Code == 9 {
							b, err = []byte(e.Text), nil
						}
						if string(b) != text || err != nil {
							t.Errorf("got %q, %v, want %q", b, err, text)
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

func TestAnswersOutOfOrderAreMatchedBySequence(t *testing.T) {
	var held atomic.Pointer[codec.Packet]
	f := listen(t, codec.Layout{Seq: true}, func(p *peer, pk codec.Packet) {
		if string(pk.Body) == "first" {
			k := pk.Clone()
			held.Store(&k)
			return
		}
		p.send(pk)
		p.send(*held.Load())
	})
	c := f.dial(func(cfg *client.Config) { cfg.Layout.Seq = true })
	var wg sync.WaitGroup
	wg.Go(func() {
		if b, err := c.Do(soon(t), hEcho, []byte("first")); string(b) != "first" || err != nil {
			t.Errorf("got %q, %v", b, err)
		}
	})
	for held.Load() == nil {
		time.Sleep(time.Millisecond)
	}
	if b, err := c.Do(soon(t), hEcho, []byte("second")); string(b) != "second" || err != nil {
		t.Errorf("got %q, %v", b, err)
	}
	wg.Wait()
}

func TestALostConnectionIsMadeAnew(t *testing.T) {
	f := listen(t, codec.Layout{}, func(p *peer, pk codec.Packet) {
		if pk.Sub == 9 {
			_ = p.Close()
			return
		}
		p.send(pk)
	})
	var lost, connected atomic.Int32
	c := f.dial(func(cfg *client.Config) {
		cfg.OnConnect = func(context.Context, *client.Client) error { connected.Add(1); return nil }
		cfg.OnLost = func(error) { lost.Add(1) }
	})
	for i := range 5 {
		if _, err := c.Do(soon(t), client.Handle(1, 9), nil); !errors.Is(err, client.ErrLost) {
			t.Fatalf("a call that was under way: got %v", err)
		}
		if b, err := c.Do(soon(t), hEcho, []byte("x")); string(b) != "x" || err != nil {
			t.Fatalf("after loss %d: got %q, %v", i, b, err)
		}
	}
	if n, _ := c.Stats(); n != 6 || lost.Load() != 5 || connected.Load() != 6 {
		t.Errorf("%d connections, OnConnect %d, OnLost %d", n, connected.Load(), lost.Load())
	}
	f.stop()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Do(ctx, hEcho, nil); !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, client.ErrLost) {
		t.Errorf("without a server: got %v", err)
	}
	c.Close()
	c.Close()
	if _, err := c.Do(soon(t), hEcho, nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after close: got %v", err)
	}
}

func TestWithoutReconnect(t *testing.T) {
	f := listen(t, codec.Layout{}, func(p *peer, _ codec.Packet) { _ = p.Close() })
	c := f.dial(func(cfg *client.Config) { cfg.NoReconnect = true })
	if _, err := c.Do(soon(t), hEcho, nil); !errors.Is(err, client.ErrLost) {
		t.Errorf("got %v", err)
	}
	for c.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	if _, err := c.Do(soon(t), hEcho, nil); !errors.Is(err, client.ErrClosed) {
		t.Errorf("afterwards: got %v", err)
	}
	if c, err := client.Dial(soon(t), client.Config{Addrs: []string{"127.0.0.1:1"}, NoReconnect: true}); err == nil {
		c.Close()
		t.Error("nobody there: want an error")
	}
	if _, err := client.Dial(soon(t), client.Config{}); err == nil {
		t.Error("no address: want an error")
	}
}

func TestHeartbeats(t *testing.T) {
	var pings atomic.Int32
	var mute atomic.Bool
	f := listen(t, codec.Layout{}, func(p *peer, pk codec.Packet) {
		if pk.Handle() == 1 && !mute.Load() {
			pings.Add(1)
			pk.Sub = 2
			p.send(pk)
		}
	})
	lost := make(chan error, 100)
	f.dial(func(cfg *client.Config) {
		cfg.Heartbeat = time.Second // a silence that a slow machine does not make
		cfg.OnLost = func(err error) { lost <- err }
	})
	for start := time.Now(); pings.Load() < 3; {
		select {
		case err := <-lost:
			t.Fatalf("a server that answers was given up: %v", err)
		case <-time.After(10 * time.Millisecond):
		}
		if time.Since(start) > time.Minute {
			t.Fatalf("got %d PINGs in 60 heartbeats", pings.Load())
		}
	}
	mute.Store(true)
	select {
	case <-lost:
	case <-time.After(time.Minute):
		t.Fatal("a silent server was not given up")
	}
}

func TestPingsOfTheServerAreAnswered(t *testing.T) {
	pong := make(chan string, 1)
	f := listen(t, codec.Layout{}, func(_ *peer, pk codec.Packet) {
		if pk.Handle() == 2 {
			pong <- string(pk.Body)
		}
	})
	f.dial(nil)
	(<-f.peers).send(codec.Packet{Sub: 1, Body: []byte("hello")})
	select {
	case got := <-pong:
		if got != "hello" {
			t.Errorf("got %q", got)
		}
	case <-time.After(time.Minute):
		t.Fatal("no PONG")
	}
}

func TestNotifications(t *testing.T) {
	f := listen(t, codec.Layout{}, echo)
	c := f.dial(nil)
	got := make(chan string, 10)
	c.On(client.Handle(2, 4), func(p codec.Packet) { got <- string(p.Body) })
	p := <-f.peers
	p.send(codec.Packet{Main: 2, Sub: 4, Body: []byte("fired")})
	if text := <-got; text != "fired" {
		t.Errorf("got %q", text)
	}
	c.On(client.Handle(2, 4), nil)
	p.send(codec.Packet{Main: 2, Sub: 4})
	if b, err := c.Do(soon(t), hEcho, []byte("x")); string(b) != "x" || err != nil {
		t.Errorf("got %q, %v", b, err)
	}
	if _, unexpected := c.Stats(); unexpected != 1 {
		t.Errorf("unexpected: got %d, want 1", unexpected)
	}
}

func TestGoAwayFinishesWhatIsUnderWay(t *testing.T) {
	var slow sync.WaitGroup
	f := listen(t, codec.Layout{}, func(p *peer, pk codec.Packet) {
		if string(pk.Body) != "slow" {
			p.send(pk)
			return
		}
		p.send(codec.Packet{Sub: 4, Body: []byte{0, 0, 1, 0}})
		pk = pk.Clone()
		slow.Go(func() {
			time.Sleep(50 * time.Millisecond)
			p.send(pk)
		})
	})
	c := f.dial(nil)
	if b, err := c.Do(soon(t), hEcho, []byte("slow")); string(b) != "slow" || err != nil {
		t.Errorf("under way: got %q, %v", b, err)
	}
	if b, err := c.Do(soon(t), hEcho, []byte("next")); string(b) != "next" || err != nil {
		t.Errorf("afterwards: got %q, %v", b, err)
	}
	if n, _ := c.Stats(); n != 2 {
		t.Errorf("%d connections, want 2", n)
	}
	slow.Wait()
}

func TestAnErrorAboutTheConnection(t *testing.T) {
	f := listen(t, codec.Layout{}, func(p *peer, _ codec.Packet) { p.error(5, codec.Packet{}, "idle") })
	c := f.dial(nil)
	_, err := c.Do(soon(t), hEcho, nil)
	var e *client.Error
	if !errors.Is(err, client.ErrLost) || !errors.As(err, &e) || e.Code != 5 {
		t.Errorf("got %v, want ErrLost with error 5", err)
	}
}

func TestABodyThatIsTooLarge(t *testing.T) {
	c := listen(t, codec.Layout{}, echo).dial(nil)
	if _, err := c.Do(soon(t), hEcho, make([]byte, 1<<20)); !errors.Is(err, codec.ErrBodyTooLarge) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := c.Do(ctx, hEcho, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("an ended context: got %v", err)
	}
	if b, err := c.Do(soon(t), hEcho, []byte("x")); string(b) != "x" || err != nil {
		t.Errorf("got %q, %v", b, err)
	}
}

// A handle that the layout has no room for is refused before anything is written, and the
// connection goes on. Without sequence numbers in the layout the client sends none.
func TestAHandleThatTheLayoutCannotSay(t *testing.T) {
	layout := codec.Layout{Command: codec.MainSub8}
	c := listen(t, layout, echo).dial(func(c *client.Config) { c.Layout = layout })
	for _, h := range []uint32{client.Handle(300, 1), client.Handle(1, 256), 1 << 31} {
		if _, err := c.Do(soon(t), h, nil); !errors.Is(err, codec.ErrBadHandle) {
			t.Errorf("Do on %#x: got %v, want codec.ErrBadHandle", h, err)
		}
		if err := c.Send(soon(t), h, nil); !errors.Is(err, codec.ErrBadHandle) {
			t.Errorf("Send on %#x: got %v, want codec.ErrBadHandle", h, err)
		}
	}
	if b, err := c.Do(soon(t), client.Handle(255, 255), []byte("x")); string(b) != "x" || err != nil {
		t.Errorf("got %q, %v", b, err)
	}
}

// The default of MaxFrame fits every layout.
func TestAShortLengthFieldNeedsNoMaxFrame(t *testing.T) {
	layout := codec.Layout{LengthWidth: 2, LengthAdjust: -2}
	c := listen(t, layout, echo).dial(func(c *client.Config) { c.Layout = layout })
	if b, err := c.Do(soon(t), hEcho, []byte("x")); string(b) != "x" || err != nil {
		t.Errorf("got %q, %v", b, err)
	}
}

func TestTheClientLinksNoEngine(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "millrace/services/client").Output()
	if err != nil {
		t.Skip("no go command: ", err)
	}
	for _, dep := range strings.Fields(string(out)) {
		for _, bad := range []string{"millrace/engine", "millrace/dbasync", "millrace/timerwheel", "gnet", "pgx", "nats"} {
			if strings.Contains(dep, bad) {
				t.Errorf("it links %s", dep)
			}
		}
	}
}
