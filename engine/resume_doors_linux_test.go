package engine

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"millrace/codec"
)

// brokenOff reads to the end of the connection, which the server has ended: behind a WebSocket
// with that code.
func (p *resumer) brokenOff(t testing.TB, code websocket.StatusCode) {
	t.Helper()
	for {
		err := p.next()
		switch {
		case err == nil:
		case strings.HasPrefix(p.url, "ws"):
			if got := websocket.CloseStatus(err); got != code {
				t.Errorf("%s: closed with %d, %v, want %d", p.url, got, err, code)
			}
			return
		case errors.Is(err, io.EOF):
			return
		default:
			t.Fatalf("%s: %v", p.url, err)
		}
	}
}

// A session goes on through whichever door its peer comes next, with what was sent to it
// meanwhile, and says what it came through last.
func TestASessionGoesOnThroughAnotherDoor(t *testing.T) {
	h := newResumable()
	var s atomic.Pointer[Session]
	h.accept = func(x *Session) { s.Store(x) }
	doors := []string{"tcp", "tls", "ws", "wss"}
	var urls []string
	for _, d := range doors {
		urls = append(urls, d+"://127.0.0.1:0")
	}
	cfg := resumeConfig(urls...)
	cfg.Loops = 3
	srv := serve(t, cfg, h)
	p := hello(t, srv)
	waitFor(t, "OnSocketAccept", func() bool { return s.Load() != nil })
	x, began := s.Load(), s.Load().conn.(*line).Since()
	var want []string
	turns := 0
	through := func(i int, takeover bool) {
		turns++
		p.ask(1, 1, fmt.Sprint("asked ", turns))
		want = append(want, fmt.Sprintf("1/1 asked %d", turns))
		p.want(t, len(want)) // so that nothing is on its way
		old := *p
		if !takeover {
			p.conn.Write(frame(1, 1, "half of one")[:9]) // is none
			p.close()
			waiting(t, srv, 1)
			if err := x.Push(2, 4, fmt.Appendf(nil, "away %d", turns)); err != nil {
				t.Fatal(err)
			}
			want = append(want, fmt.Sprintf("2/4 away %d", turns))
		}
		p.url = srv.URLs()[i]
		p.reconnect(t)
		p.ask(1, 1, fmt.Sprint("back ", turns))
		want = append(want, fmt.Sprintf("1/1 back %d", turns))
		p.want(t, len(want))
		if got := x.Transport(); got != doors[i] || (x.TLS() != nil) != (i%2 == 1) {
			t.Errorf("through %s: it says %s, TLS %v", doors[i], got, x.TLS() != nil)
		}
		if got, want := x.RemoteAddr().String(), p.cut.Conn.LocalAddr().String(); got != want {
			t.Errorf("through %s: the address is %s, want %s", doors[i], got, want)
		}
		if takeover {
			had := len(old.got)
			old.brokenOff(t, codeReplaced)
			if len(old.got) != had {
				t.Errorf("the first connection of a takeover got %s", show(old.got[had:]))
			}
			old.close()
		}
	}
	for i := range doors { // from each to each other, and back
		for k := range doors {
			if i != k {
				through(i, false)
				through(k, false)
			}
		}
	}
	for _, i := range []int{2, 0, 3, 1, 2, 3, 2} { // from all that can say why, and from those that can't
		through(i, true)
	}
	var got []string
	for _, f := range p.got {
		got = append(got, fmt.Sprintf("%d/%d %s", f.Main, f.Sub, f.Body))
	}
	if g, w := strings.Join(got, "\n"), strings.Join(want, "\n"); g != w {
		t.Errorf("got\n%s\nwant\n%s", g, w)
	}
	if st := srv.Stats(); st.Conns != 1 || st.Resumed != uint64(turns) || s.Load() != x || x.conn.(*line).Since() != began {
		t.Errorf("%d sessions, %d resumed of %d", st.Conns, st.Resumed, turns)
	}
}

// A peer that has died, and one that lives and does not answer PINGs, are breaks: the session
// waits, and what was lost on the way comes again.
func TestADeadPeerIsABreak(t *testing.T) {
	t.Parallel()
	var wg sync.WaitGroup
	for _, c := range []struct {
		name, scheme string
		change       func(*Config)
		dies         bool
		why          Reason
	}{
		{"pings in vain", "tcp", func(c *Config) { c.Heartbeat = 200 * time.Millisecond }, true, ReasonPeerReset},
		{"pings in vain, wss", "wss", func(c *Config) { c.Heartbeat = 200 * time.Millisecond }, true, ReasonPeerReset},
		{"sent to in vain", "tcp", func(c *Config) {}, true, ReasonPeerReset},
		{"no PONG", "tcp", func(c *Config) { c.Heartbeat, c.IdleTimeout = 100*time.Millisecond, 500*time.Millisecond }, false, ReasonIdle},
		{"no PONG, ws", "ws", func(c *Config) { c.Heartbeat, c.IdleTimeout = 100*time.Millisecond, 500*time.Millisecond }, false, ReasonIdle},
	} {
		wg.Go(func() {
			h := newResumable()
			var s atomic.Pointer[Session]
			h.accept = func(x *Session) { s.Store(x) }
			cfg := resumeConfig(c.scheme + "://127.0.0.1:0")
			cfg.UserTimeout, cfg.Linger = time.Second, 100*time.Millisecond
			c.change(&cfg)
			srv := serve(t, cfg, h)
			p := hello(t, srv)
			p.ask(1, 1, "a")
			p.want(t, 1)
			x, want := s.Load(), `1/1 "a"; `
			switch {
			case !c.dies:
				p.brokenOff(t, 1008)
				want += `0/3 "\x00\x05\x00\x00\x00\x00idle_timeout"; `
			default:
				die(t, p.cut.Conn)
				if err := x.Push(2, 4, []byte("into the void")); err != nil {
					t.Fatal(err)
				}
				want += `2/4 "into the void"; `
			}
			waiting(t, srv, 1)
			x.Push(2, 4, []byte("while away"))
			p.close()
			p.reconnect(t)
			p.ask(1, 1, "b")
			p.want(t, strings.Count(want, ";")+2)
			if got := show(p.got); got != want+`2/4 "while away"; 1/1 "b"; ` {
				t.Errorf("%s: got %s", c.name, got)
			}
			if st := srv.Stats(); st.Closes[c.why] != 1 || st.Conns != 1 || s.Load() != x {
				t.Errorf("%s: %d sessions, closed %v", c.name, st.Conns, st.Closes)
			}
		})
	}
	wg.Wait()
}

// stopConn lets room bytes more through and drops what else is written; below 0: nothing is.
type stopConn struct {
	net.Conn
	room int
}

func (c *stopConn) Write(b []byte) (int, error) {
	if c.room < 0 {
		return c.Conn.Write(b)
	}
	n := min(c.room, len(b))
	c.room -= n
	if n > 0 {
		if m, err := c.Conn.Write(b[:n]); err != nil {
			return m, err
		}
	}
	return len(b), nil
}

// Who stops in the middle of a record or of a WebSocket header has FrameTimeout, on whichever
// loop his connection is: a break, as half a frame is. The time stands still while the server
// owes him an answer. Who has no session yet is closed.
func TestHalfRecordsOfResumedSessionsHaveATime(t *testing.T) {
	t.Parallel()
	const limit = 400 * time.Millisecond
	h := newResumable()
	read := h.read
	var held sync.Map // of what is answered later, by its body
	h.read = func(s *Session, p codec.Packet) {
		if p.Sub != 5 {
			read(s, p)
			return
		}
		release, p := s.Hold(), p.Clone()
		held.Store(string(p.Body), func() {
			s.Submit(func() {
				s.Reply(p, p.Body)
				release()
			})
		})
	}
	cfg := resumeConfig("tls://127.0.0.1:0", "ws://127.0.0.1:0", "wss://127.0.0.1:0")
	cfg.FrameTimeout, cfg.FirstFrameTimeout, cfg.Loops = limit, Off, 3
	srv := serve(t, cfg, h)
	peer := func(url string) *resumer {
		p := &resumer{url: url, ackEvery: 1 << 60}
		t.Cleanup(func() { p.close() })
		p.reconnect(t)
		p.close()
		p.reconnect(t) // now it is a connection of a session that was there before
		p.ask(1, 1, "a")
		p.want(t, 1)
		return p
	}
	var ended atomic.Int64
	var wg sync.WaitGroup
	for i, url := range srv.URLs() {
		room := []int{7, 3, 7}[i] // half a record, or half a header
		for n := range 4 {
			wg.Go(func() {
				p := peer(url)
				switch n {
				case 0: // between two records for longer than that
					time.Sleep(2 * limit)
				case 1: // owed an answer
					p.ask(1, 5, url)
					var release any
					waitFor(t, "the request", func() (ok bool) { release, ok = held.Load(url); return ok })
					p.cut.Conn = &stopConn{p.cut.Conn, room}
					p.ask(1, 1, "b")
					time.Sleep(3 * limit)
					release.(func())()
					p.brokenOff(t, 1008)
				default:
					p.cut.Conn = &stopConn{p.cut.Conn, room}
					p.ask(1, 1, "b")
					p.brokenOff(t, 1008)
				}
				want := map[int]string{0: "", 1: fmt.Sprintf("1/5 %.20q; ", url)}[n]
				if n > 0 {
					want += `0/3 "\x00\x05\x00\x00\x00\x00frame_timeout"; 1/1 "b"; `
					ended.Add(1)
					p.close()
					p.reconnect(t)
				}
				p.ask(1, 1, "c")
				p.want(t, strings.Count(want, ";")+2)
				if got := show(p.got); got != `1/1 "a"; `+want+`1/1 "c"; ` {
					t.Errorf("%s %d: got %s", url, n, got)
				}
			})
		}
		wg.Go(func() {
			conn, cut, err := dialCut(url, "", -1, -1)
			if err != nil {
				t.Error(err)
				return
			}
			defer cut.Conn.Close()
			if c, ok := conn.(interface{ Handshake() error }); ok {
				c.Handshake()
			}
			cut.Conn = &stopConn{cut.Conn, room}
			conn.Write(frame(0, SubHello, "\x01\x00"))
			p, err := codec.NewReader(conn, nil).Next()
			if err != nil || p.Sub != SubError || string(p.Body) != "\x00\x05\x00\x00\x00\x00frame_timeout" {
				t.Errorf("%s without a session: %v %v", url, p, err)
			}
		})
	}
	wg.Wait()
	if n := srv.Stats().Closes[ReasonFrame]; n != uint64(ended.Load()) {
		t.Errorf("%d closed for half of something, want %d", n, ended.Load())
	}
}

// A session that comes back through a proxy has the address in that one's header, which the
// limit of an address counts from then on; its place is its own.
func TestProxyHeadersAndResume(t *testing.T) {
	h := newResumable()
	var s atomic.Pointer[Session]
	h.accept = func(x *Session) { s.Store(x) }
	cfg := resumeConfig("tcp://127.0.0.1:0", "wss://127.0.0.1:0")
	cfg.ProxyFrom, cfg.MaxConnsPerIP, cfg.Loops = []string{"127.0.0.0/8"}, 1, 3
	srv := serve(t, cfg, h)
	from := func(host int) string { return fmt.Sprintf("PROXY TCP4 203.0.113.%d 127.0.0.1 5000 7000\r\n", host) }
	comes := func(url, preamble string) error {
		p := &resumer{url: url, preamble: preamble, ackEvery: 1 << 60}
		t.Cleanup(func() { p.close() })
		return p.connect(-1, -1)
	}
	refused := func(err error) bool { return err != nil && strings.HasPrefix(err.Error(), "0/3 000c") }
	p := &resumer{url: srv.URLs()[0], preamble: from(9), ackEvery: 1 << 60}
	t.Cleanup(func() { p.close() })
	p.reconnect(t)
	waitFor(t, "OnSocketAccept", func() bool { return s.Load() != nil })
	x := s.Load()
	for i, host := range []int{10, 11, 9, 10} {
		was := x.RemoteAddr().String()
		p.close()
		waiting(t, srv, 1)
		if err := comes(srv.URLs()[0], p.preamble); !refused(err) {
			t.Errorf("beside a session that waits, whose place is %s: %v", was, err)
		}
		if err := comes(srv.URLs()[0], ""); err == nil {
			t.Error("a trusted source without a header was served")
		}
		p.preamble, p.url = from(host), srv.URLs()[i%2]
		p.reconnect(t)
		p.ask(1, 1, "x")
		p.want(t, i+1)
		if got, want := x.RemoteAddr().String(), fmt.Sprintf("203.0.113.%d:5000", host); got != want || was == got {
			t.Errorf("the address is %s, was %s, want %s", got, was, want)
		}
		if err := comes(srv.URLs()[1], from(host)); !refused(err) {
			t.Errorf("beside one of 203.0.113.%d: %v", host, err)
		}
	}
	if n := srv.perIP.Len(); n != 1 {
		t.Errorf("%d addresses are counted, want 1", n)
	}
	if err := comes(srv.URLs()[1], from(9)); err != nil {
		t.Errorf("an address that the session has left: %v", err)
	}
	p.write(SubBye, nil)
	p.close()
	waitFor(t, "the session's address to be free", func() bool { return srv.perIP.Len() == 1 })
	if err := comes(srv.URLs()[0], from(10)); err != nil {
		t.Errorf("an address whose session has ended: %v", err)
	}
}
