package reference

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"millrace/codec"
	"millrace/engine"
	"millrace/services"
	"millrace/timerwheel"
)

// depth is how many frames are written at once.
const depth = 64

// request is one frame; Main 0 is 1/1 of a server that only echoes.
type request struct {
	name, body string
	main, sub  uint16
}

var requests = []request{
	{"bare", `0123456789abcdef`, 0, 0},
	{"1/1", `0123456789abcdef`, 1, 1},
	{"1/2", `0123456789abcdef`, 1, 2},
	{"1/5", `{"group":"lobby"}`, 1, 5},
	{"2/1", `{"id":1,"ms":600000,"repeat":1}`, 2, 1},
	{"2/2", `{"id":2}`, 2, 2},
}

// exchange returns a function that writes depth requests and reads their answers, over
// loopback TCP from a server of its own. It has been called once.
func (r request) exchange(b testing.TB) func() {
	wire := started(b, r.main == 0)
	var out []byte
	for range depth {
		out = codec.Packet{Main: max(r.main, 1), Sub: max(r.sub, 1), Body: []byte(r.body)}.Append(out)
	}
	in := bufio.NewReader(wire)
	do := func() {
		if _, err := wire.Write(out); err != nil {
			b.Fatal(err)
		}
		for range depth {
			head, err := in.Peek(8)
			if err != nil || head[5] != byte(max(r.main, 1)) {
				b.Fatal(head, err)
			}
			if _, err := in.Discard(4 + int(head[2])<<8 + int(head[3])); err != nil {
				b.Fatal(err)
			}
		}
	}
	do()
	return do
}

// BenchmarkHandles is whole requests, server and client. "bare" is the engine with a
// handler that replies with the body.
func BenchmarkHandles(b *testing.B) {
	for _, r := range requests {
		b.Run(r.name, func(b *testing.B) {
			exchange := r.exchange(b)
			b.ReportAllocs()
			b.ResetTimer()
			for n := 0; n < b.N; n += depth {
				exchange()
			}
		})
	}
}

// started starts a server with the handles, or one that only echoes, and connects.
func started(b testing.TB, bare bool) net.Conn {
	b.Helper()
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	pool, err := engine.NewPool(engine.PoolConfig{Logger: quiet})
	if err != nil {
		b.Fatal(err)
	}
	timers, err := timerwheel.New(timerwheel.Config{Logger: quiet}, pool)
	if err != nil {
		b.Fatal(err)
	}
	var h engine.Handler = echoes{}
	if !bare {
		c, err := services.NewController(services.ControllerConfig{Logger: quiet})
		if err == nil {
			err = errors.Join(Basics(c, false, Here{}), Timers(c, timers))
		}
		if err != nil {
			b.Fatal(err)
		}
		h = c
	}
	srv, err := engine.New(engine.Config{Addrs: []string{"tcp://127.0.0.1:0"}, Loops: 1, Dispatch: engine.Inline, Pool: pool, Logger: quiet}, h)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	b.Cleanup(cancel)
	for _, s := range []interface {
		Start(context.Context) error
		Stop(context.Context) error
	}{pool, timers, srv} {
		if err := s.Start(ctx); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() {
			if err := s.Stop(ctx); err != nil {
				b.Error(err)
			}
		})
	}
	wire, err := net.Dial("tcp", srv.Addrs()[0].String())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { wire.Close() })
	return wire
}

type echoes struct{}

func (echoes) OnSocketAccept(*engine.Session)                 {}
func (echoes) OnSocketRead(s *engine.Session, p codec.Packet) { _ = s.Reply(p, p.Body) }
func (echoes) OnSocketClose(*engine.Session, engine.Reason)   {}
