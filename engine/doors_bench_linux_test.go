package engine

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"iter"
	"net"
	"syscall"
	"testing"
	"time"

	"millrace/codec"
	"millrace/engine/internal/door"
	"millrace/engine/internal/netio"
)

// handBelow is a network without sockets: whatever comes has come to the first address.
type handBelow struct{ door.Below }

func (handBelow) Listener(net.Addr) int { return 0 }

// handLoop is a loop whose turns the benchmark runs by hand.
type handLoop struct {
	asked chan struct{}
	turns netio.Turner
}

func (l *handLoop) Execute() error {
	select {
	case l.asked <- struct{}{}:
	default:
	}
	return nil
}
func (l *handLoop) Kind() netio.LoopKind { return netio.LoopAccepts }
func (l *handLoop) Idle() bool           { return true }
func (l *handLoop) StandIn(netio.Conn, iter.Seq[netio.Conn]) (func(), bool) {
	return nil, false
}

// handWire takes everything, and shows it.
type handWire struct {
	takesAll
	show func([]byte)
}

func (w *handWire) Write(p []byte) (int, error) {
	if w.show != nil {
		w.show(bytes.Clone(p))
	}
	return w.takesAll.Write(p)
}
func (w *handWire) LocalAddr() net.Addr  { return &net.TCPAddr{} }
func (w *handWire) RemoteAddr() net.Addr { return &net.TCPAddr{} }

// looseDoor makes a server without sockets behind a door.
func looseDoor(b testing.TB, scheme string, h Handler) (*Server, *door.Host, *handLoop) {
	cfg := Config{Addrs: []string{scheme + "://127.0.0.1:0"}, Dispatch: Inline, Logger: quiet, Limits: Limits{MaxConns: 4096}}
	cfg.TLS = serverTLS()
	srv, err := New(cfg, h)
	if err != nil {
		b.Fatal(err)
	}
	srv.table = newTable(1 << 12)
	srv.serving.Store(true)
	srv.fdShed.Store(1 << 20)
	srv.pool.Start(context.Background())
	b.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		srv.pool.Stop(ctx)
	})
	d := srv.net.(*door.Host)
	d.Below = handBelow{d.Below}
	l := &handLoop{asked: make(chan struct{}, 1)}
	l.turns = d.NewLoop(l)
	return srv, d, l
}

// through opens a connection: write is the client's, for bytes inside of its door.
func through(b testing.TB, d *door.Host, l *handLoop, scheme string) (sink netio.Sink, w *handWire, seal func([]byte) []byte) {
	w = &handWire{}
	w.wrote = 0
	sink, no := d.Open(l.turns, w, 3)
	if sink == nil {
		b.Fatal("refused", no)
	}
	switch scheme {
	case "ws":
		sink.Received([]byte(askUpgrade + "\r\n"))
		return sink, w, func(p []byte) []byte { return p }
	case "tls":
		return sink, w, shakeHands(b, l, sink, w)
	}
	return sink, w, func(p []byte) []byte { return p }
}

// handClient is the client's end of a TLS connection in memory.
type handClient struct {
	net.Conn
	in, out chan []byte
	rest    []byte
	sealed  []byte
	done    bool
}

func (c *handClient) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		var ok bool
		if c.rest, ok = <-c.in; !ok {
			return 0, io.EOF
		}
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func (c *handClient) Write(p []byte) (int, error) {
	if c.done {
		c.sealed = append(c.sealed, p...)
	} else {
		c.out <- bytes.Clone(p)
	}
	return len(p), nil
}

func shakeHands(b testing.TB, l *handLoop, sink netio.Sink, w *handWire) func([]byte) []byte {
	c := &handClient{in: make(chan []byte, 64), out: make(chan []byte, 64)}
	w.show = func(p []byte) { c.in <- p }
	cfg := clientTLS.Clone()
	cfg.DynamicRecordSizingDisabled = true
	tc := tls.Client(c, cfg)
	done := make(chan error, 1)
	go func() { done <- tc.Handshake() }()
	for shaken := false; !shaken || len(c.out) > 0 || sink.(netio.Door).TLS() == nil; {
		select {
		case p := <-c.out:
			sink.Received(p)
		case <-l.asked:
			l.turns.Turn()
		case err := <-done:
			if shaken = true; err != nil {
				b.Fatal(err)
			}
		case <-time.After(20 * time.Second):
			b.Fatal("no handshake")
		}
	}
	w.show, c.done = nil, true
	return func(p []byte) []byte {
		c.sealed = nil
		tc.Write(p)
		return c.sealed
	}
}

// cpuTime is what the process has used of its processors. On a busy machine it says more than
// the clock.
func cpuTime() time.Duration {
	var r syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// BenchmarkDoorTurn is what a loop does with one read of 32 frames behind a door: the door's
// layers, decode, call, stage, flush, and the layers again, on a wire that takes everything.
func BenchmarkDoorTurn(b *testing.B) {
	for _, scheme := range []string{"ws", "tls"} {
		for _, shape := range []struct{ pipe, body int }{{1, 64}, {32, 64}, {8, 4096}} {
			b.Run(fmt.Sprintf("%s/pipe=%d/body=%d", scheme, shape.pipe, shape.body), func(b *testing.B) {
				_, d, l := looseDoor(b, scheme, &funcs{read: echo})
				sink, w, seal := through(b, d, l, scheme)
				one := codec.Packet{Main: 1, Sub: 1, Body: make([]byte, shape.body)}.Append(nil)
				if scheme == "ws" {
					one = maskedMessage(one)
				}
				frames := bytes.Repeat(one, shape.pipe)
				const ahead = 512
				reads := make([][]byte, ahead)
				w.wrote = 0
				used, began := time.Duration(0), time.Duration(0)
				b.ReportAllocs()
				b.ResetTimer()
				for i := range b.N {
					if i%ahead == 0 {
						if i > 0 {
							used += cpuTime() - began
						}
						b.StopTimer()
						for k := range reads {
							reads[k] = append(reads[k][:0], seal(frames)...)
						}
						b.StartTimer()
						began = cpuTime()
					}
					sink.Received(reads[i%ahead])
				}
				used += cpuTime() - began
				b.StopTimer()
				if w.wrote < b.N*shape.pipe*shape.body {
					b.Fatalf("%d bytes were answered", w.wrote)
				}
				b.ReportMetric(float64(used)/float64(b.N*shape.pipe), "cpu-ns/frame")
			})
		}
	}
}

// maskedMessage is a client's message.
func maskedMessage(p []byte) []byte {
	b := []byte{0x82, 0x80 | byte(len(p))}
	if len(p) > 125 {
		b = binary.BigEndian.AppendUint16([]byte{0x82, 0x80 | 126}, uint16(len(p)))
	}
	mask := [4]byte{0xa1, 2, 0x73, 4}
	b = append(b, mask[:]...)
	for i, x := range p {
		b = append(b, x^mask[i&3])
	}
	return b
}

// BenchmarkDoorBroadcast brings broadcasts to 1,000 sessions, on wires that take everything:
// one, or several that leave together.
func BenchmarkDoorBroadcast(b *testing.B) {
	for _, casts := range []int{1, 8} {
		for _, scheme := range []string{"tcp", "ws"} {
			b.Run(fmt.Sprintf("%s/casts=%d", scheme, casts), func(b *testing.B) {
				const conns = 1000
				srv, d, l := looseDoor(b, scheme, &funcs{})
				for range conns {
					through(b, d, l, scheme)
				}
				body := make([]byte, 64)
				began := cpuTime()
				b.ReportAllocs()
				for b.Loop() {
					for range casts {
						if err := srv.Broadcast(1, 1, body); err != nil {
							b.Fatal(err)
						}
					}
					for srv.allLoops()[0].out.Queued.Load() > 0 {
						l.turns.Turn()
						for len(srv.rearm) > 0 {
							<-srv.rearm
						}
					}
				}
				b.ReportMetric(float64(cpuTime()-began)/float64(b.N*conns), "cpu-ns/write")
			})
		}
	}
}
