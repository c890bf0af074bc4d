package engine

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"millrace/codec"
)

// switching is a handler whose sessions change their framing when they are told to: FIXED to
// frames of four bytes, LINE to lines, LENGTH to the default frame for good. The answer is
// written as the frames behind it are.
func switching(t testing.TB) *funcs {
	line, four := must(codec.Line(100)), must(codec.Fixed(4, 0))
	return &funcs{read: func(s *Session, p codec.Packet) {
		to := map[string]codec.Framer{"FIXED": four, "LINE": line, "LENGTH": nil}
		word := string(p.Body)
		if f, ok := to[word]; ok {
			if err := s.SetFramer(f, word == "LENGTH"); err != nil {
				t.Errorf("%s: %v", word, err)
			}
			if word == "LENGTH" {
				s.Send(1, 1, []byte("over"))
				return
			}
			word = word[:4]
		}
		s.Reply(p, []byte(word))
	}}
}

// What stands behind the frame that changes the framing is read in the new one, however the
// stream is cut, and answered in order, also in front of a FIN.
func TestFramingChangesBehindTheFrameThatSaysSo(t *testing.T) {
	long := strings.Repeat("frames that are read ahead again\n", 3000)
	sent := "hello\r\nFIXED\nabcd\n\n\n\nLINE"
	// LINE has four bytes: a frame of Fixed(4) that goes back to lines.
	sent += "a line\n\nLENGTH\n"
	tail := string(frame(1, 1, "one\n")) + string(frame(1, 1, "")) + string(frame(1, 1, long[:60_000])) + string(frame(1, 1, "last"))
	want := "hello\n" + "FIXE" + "abcd\n\n\n\n" + "LINE\n" + "a line\n\n" + string(frame(1, 1, "over")) + tail
	sent += tail
	for _, d := range dispatches {
		t.Run(d.String(), func(t *testing.T) {
			addr := "tcp://127.0.0.1:0"
			cfg := Config{Dispatch: d, Addrs: []string{addr, "ws://127.0.0.1:0", "tls://127.0.0.1:0"}, Doors: Doors{TLS: serverTLS()}, Framings: map[string]Framing{}}
			for _, a := range cfg.Addrs {
				cfg.Framings[a] = Framing{Framer: must(codec.Line(100)), Switches: true}
			}
			srv := serve(t, cfg, switching(t))
			eachDoor(t, srv, func(t *testing.T, url, scheme string) {
				cuts := []int{0, 1, 5, 7, 13, 15, 20, 24, 25, 27, 31, 32, 33, 39, 40, 41, 45, 60, 100, 60_000, len(sent)}
				if scheme == "tcp" {
					for i := range 64 {
						cuts = append(cuts, i)
					}
				}
				for _, cut := range cuts {
					c := dialDoor(t, url, scheme, "")
					c.SetDeadline(time.Now().Add(30 * time.Second))
					go func() {
						io.WriteString(c, sent[:cut])
						io.WriteString(c, sent[cut:])
						if h, ok := c.(interface{ CloseWrite() error }); ok {
							h.CloseWrite()
						}
					}()
					got := make([]byte, len(want))
					if n, err := io.ReadFull(c, got); err != nil || string(got) != want {
						t.Fatalf("cut at %d: got %.100q of %d, %v", cut, got[:n], n, err)
					}
					if _, ok := c.(interface{ CloseWrite() error }); ok {
						if more, err := io.ReadAll(c); len(more) > 0 || err != nil {
							t.Fatalf("cut at %d: %q, %v behind the last answer", cut, more, err)
						}
					}
					c.Close()
				}
				c := dialDoor(t, url, scheme, "")
				c.SetDeadline(time.Now().Add(30 * time.Second))
				go func() {
					for i := range sent[:120] {
						io.WriteString(c, sent[i:i+1])
					}
				}()
				got := make([]byte, 60)
				if _, err := io.ReadFull(c, got); err != nil || string(got) != want[:60] {
					t.Fatalf("byte by byte: got %q, %v", got, err)
				}
				c.Close()
			})
			for end := time.Now().Add(20 * time.Second); srv.budget.Used() > 0 || len(srv.others.members()) > 0; time.Sleep(5 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("%d bytes are held, %d sessions are noted", srv.budget.Used(), len(srv.others.members()))
				}
			}
		})
	}
}

// members are the sessions that are noted.
func (o *others) members() (list []*Session) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for s := range o.all {
		list = append(list, s)
	}
	return list
}

// A broadcast and a group send reach every session in the framing that it has; but where
// that can't say them.
func TestBroadcastsAreWrittenInEachFraming(t *testing.T) {
	v := must(codec.Varint(0))
	addrs := []string{"tcp://127.0.0.1:0", "tcp4://127.0.0.1:0", "ws://127.0.0.1:0", "wss://127.0.0.1:0"}
	srv := serve(t, Config{Addrs: addrs, Doors: Doors{TLS: serverTLS()}, Framings: map[string]Framing{
		addrs[1]: {Framer: v}, addrs[2]: {Framer: must(codec.Line(0))}, addrs[3]: {Framer: v, Switches: true}}},
		&funcs{read: func(s *Session, p codec.Packet) {
			s.srv.Group("g").Join(s)
			s.Reply(p, p.Body)
		}})
	length := func(p codec.Packet) []byte { return must(must(codec.New(codec.Layout{}, 0)).Append(nil, p)) }
	varint := func(p codec.Packet) []byte { return must(v.Append(nil, p)) }
	line := func(p codec.Packet) []byte { return append(bytes.Clone(p.Body), '\n') }
	hello := codec.Packet{Body: []byte("hello")}
	with := codec.Packet{Main: 1, Sub: 1, Body: []byte("hello")}
	clients := []struct {
		scheme string
		write  func(codec.Packet) []byte
		first  codec.Packet
		says   bool // a handle
	}{{"tcp", length, with, true}, {"tcp", varint, with, true}, {"ws", line, hello, false}, {"wss", varint, with, true}}
	var conns []net.Conn
	for i, c := range clients {
		nc := dialDoor(t, srv.URLs()[i], c.scheme, "")
		nc.SetDeadline(time.Now().Add(30 * time.Second))
		nc.Write(c.write(c.first))
		expect(t, nc, c.write(c.first))
		conns = append(conns, nc)
	}
	to := codec.Packet{Main: 1, Sub: 2, Body: []byte("to all")}
	if err := srv.Broadcast(1, 2, to.Body); err != nil {
		t.Fatal(err)
	}
	if n, err := srv.Group("g").Send(1, 3, to.Body); n != 3 || err != nil {
		t.Errorf("sent to %d, %v, want 3", n, err)
	}
	bare := codec.Packet{Body: []byte("for every framing")}
	if n, err := srv.Group("g").Send(0, 0, bare.Body); n != 4 || err != nil {
		t.Errorf("sent to %d, %v, want 4", n, err)
	}
	for i, c := range clients {
		var want []byte
		if c.says {
			want = append(c.write(to), c.write(codec.Packet{Main: 1, Sub: 3, Body: to.Body})...)
		}
		expect(t, conns[i], append(want, c.write(bare)...))
	}
}

// expect reads as many bytes as want has.
func expect(t testing.TB, r io.Reader, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(r, got); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("got %q, %v, want %q", got[:n], err, want)
	}
}

// While the framing changes a broadcast is never read as something else.
func TestBroadcastsWhileTheFramingChanges(t *testing.T) {
	addr := "tcp://127.0.0.1:0"
	v := must(codec.Varint(0))
	srv := serve(t, Config{Addrs: []string{addr}, Framings: map[string]Framing{addr: {Switches: true}}}, &funcs{read: func(s *Session, p codec.Packet) {
		if err := s.SetFramer(map[bool]codec.Framer{true: v}[string(p.Body) == "varint"], false, p); err != nil {
			t.Error(err)
		}
	}})
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(50 * time.Microsecond):
				srv.Broadcast(1, 2, []byte("now"))
			}
		}
	}()
	defer func() { close(stop); <-stopped }()
	c := dialDoor(t, srv.URLs()[0], "tcp", "")
	c.SetDeadline(time.Now().Add(30 * time.Second))
	length := must(codec.New(codec.Layout{}, 0))
	next := func(head func() (n int)) codec.Packet {
		b := make([]byte, head())
		if _, err := io.ReadFull(c, b); err != nil {
			t.Fatal(err)
		}
		p, _, _, err := length.Decode(append([]byte{0, 0, byte(len(b) >> 8), byte(len(b))}, b...))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	byteOf := func() int {
		var b [1]byte
		if _, err := io.ReadFull(c, b[:]); err != nil {
			t.Fatal(err)
		}
		return int(b[0])
	}
	one := func() int { return byteOf() } // all lengths here are below 128
	four := func() int { return byteOf()<<24 | byteOf()<<16 | byteOf()<<8 | byteOf() }
	seen := 0
	await := func(head func() int, body string) {
		t.Helper()
		for {
			switch p := next(head); {
			case p.Sub == 2 && string(p.Body) == "now":
				seen++
			case p.Sub == 1 && string(p.Body) == body:
				return
			default:
				t.Fatalf("read %v", p)
			}
		}
	}
	for range 200 {
		c.Write(frame(1, 1, "varint"))
		await(four, "varint")
		c.Write(must(v.Append(nil, codec.Packet{Main: 1, Sub: 1, Body: []byte("length")})))
		await(one, "length")
	}
	if seen == 0 {
		t.Error("no broadcast was seen")
	}
}

// Without Switches, and behind the last change, the framing stays; what an address can't
// have is told by name.
func TestFramingsThatStay(t *testing.T) {
	addr := "tcp://127.0.0.1:0"
	errs := make(chan error, 4)
	h := &funcs{read: func(s *Session, p codec.Packet) {
		errs <- s.SetFramer(nil, true)
		s.Reply(p, p.Body)
	}}
	srv := serve(t, Config{Addrs: []string{addr}, Framings: map[string]Framing{addr: {Switches: true}}}, h)
	fixed := serve(t, Config{}, h)
	for _, c := range []struct {
		srv  *Server
		want []error
	}{{srv, []error{nil, ErrFixedFraming}}, {fixed, []error{ErrFixedFraming}}} {
		nc := dial(t, c.srv)
		for _, want := range c.want {
			nc.send(1, 1, "x")
			nc.expect(1, 1, "x")
			if err := <-errs; !errors.Is(err, want) {
				t.Errorf("got %v, want %v", err, want)
			}
		}
	}
	for _, cfg := range []Config{
		{Addrs: []string{addr}, Framings: map[string]Framing{"tcp://127.0.0.1:1": {}}},
		{Addrs: []string{"auto://127.0.0.1:0"}, Framings: map[string]Framing{"auto://127.0.0.1:0": {Framer: must(codec.Line(0))}}},
		{Addrs: []string{addr}, Framer: must(codec.Line(0)), Framings: map[string]Framing{addr: {}}},
	} {
		var ce *ConfigError
		if _, err := New(cfg, h); !errors.As(err, &ce) || ce.Field != "Framings" {
			t.Errorf("got %v, want a fault of Framings", err)
		}
	}
}
