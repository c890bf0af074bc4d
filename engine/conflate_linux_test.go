package engine

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"millrace/codec"
)

// value is the body of a keyed push: its key, which of its values it is, and more.
func value(key, seq uint32, size int) []byte {
	b := make([]byte, size)
	binary.BigEndian.PutUint32(b, key)
	binary.BigEndian.PutUint32(b[4:], seq)
	return b
}

// tape is what a subscriber has seen: of each key the newest value, and the marks, which
// have no key.
type tape struct {
	newest map[uint32]uint32
	marks  uint32
}

// see takes a frame and tells what is wrong with it.
func (v *tape) see(p codec.Packet) error {
	key, seq := binary.BigEndian.Uint32(p.Body), binary.BigEndian.Uint32(p.Body[4:])
	switch {
	case p.Sub == 2 && seq != v.marks+1:
		return fmt.Errorf("mark %d behind mark %d", seq, v.marks)
	case p.Sub == 2:
		v.marks = seq
	case seq <= v.newest[key]:
		return fmt.Errorf("value %d of key %d behind value %d", seq, key, v.newest[key])
	default:
		v.newest[key] = seq
	}
	return nil
}

// A subscriber that reads a tenth of what he is sent stays, gets what has no key whole and
// in order, and has every key's last value one round behind what the kernel holds; without
// keys he is closed. So behind each door, and for a session's own keys as for a group's.
func TestASlowReaderGetsTheLatestState(t *testing.T) {
	const keys, rounds, size, share = 300, 20, 1000, 10
	subscribed := make(chan *Session, 1)
	cfg := Config{Limits: Limits{MaxOutbound: 512 << 10}, Socket: Socket{SocketSendBuffer: 8 << 10}, Timeouts: Timeouts{FirstFrameTimeout: Off}}
	cfg.TLS, cfg.Deflate = serverTLS(), true
	cfg.Addrs = []string{"tcp://127.0.0.1:0", "tls://127.0.0.1:0", "ws://127.0.0.1:0", "wss://127.0.0.1:0"}
	closed := make(chan Reason, 100)
	srv := serve(t, cfg, &funcs{accept: func(s *Session) { subscribed <- s }, close: func(_ *Session, why Reason) { closed <- why }})
	feed := func(t *testing.T, url, scheme string, send func(s *Session, key, seq uint32) error) (v *tape, s *Session, r *codec.Reader, ok bool) {
		c := dialDoor(t, url, scheme, "")
		c.SetDeadline(time.Now().Add(40 * time.Second))
		if h, ok := c.(*tls.Conn); ok {
			if err := h.Handshake(); err != nil {
				t.Fatal(err)
			}
		}
		s, r, v = <-subscribed, codec.NewReader(c, nil), &tape{newest: map[uint32]uint32{}}
		if _, err := srv.Group(url).Join(s); err != nil {
			t.Fatal(err)
		}
		n := 0
		for seq := uint32(1); seq <= rounds; seq++ {
			for key := range uint32(keys) {
				if err := send(s, key, seq); err != nil {
					return v, s, r, false
				}
				if n++; n%share != 0 {
					continue
				}
				p, err := r.Next()
				if err != nil {
					return v, s, r, false
				}
				if err := v.see(p); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.Push(1, 2, value(0, seq, size)); err != nil {
				return v, s, r, false
			}
			if unsent := s.Stats().Unsent; unsent > cfg.MaxOutbound+size+64 { // a group's, which ends it
				t.Fatalf("%d bytes are unsent, MaxOutbound is %d", unsent, cfg.MaxOutbound)
			}
		}
		return v, s, r, true
	}
	for _, url := range srv.URLs() {
		scheme, _, _ := strings.Cut(url, "://")
		for how, send := range map[string]func(s *Session, key, seq uint32) error{
			"own": func(s *Session, key, seq uint32) error { return s.PushKeyed(uint64(key), 1, 1, value(key, seq, size)) },
			"group": func(_ *Session, key, seq uint32) error {
				_, err := srv.Group(url).SendKeyed(uint64(key), 1, 1, value(key, seq, size))
				return err
			},
		} {
			t.Run(scheme+" "+how, func(t *testing.T) {
				v, s, r, ok := feed(t, url, scheme, send)
				if !ok {
					t.Fatalf("the reader did not stay: %v", Reason(s.closing.Load()))
				}
				st := s.Stats()
				if st.Conflated == 0 {
					t.Fatal("nothing was replaced: the reader was not slow")
				}
				if most := (keys + rounds + 64) * (size + 12); st.Unsent > most { // 64 KiB may be in a message that has begun
					t.Errorf("%d bytes are unsent, of %d keys", st.Unsent, keys)
				}
				want := func() bool {
					for key := range uint32(keys) {
						if v.newest[key] != rounds {
							return false
						}
					}
					return v.marks == rounds
				}
				for n := 0; !want(); n++ {
					p, err := r.Next()
					if err != nil {
						t.Fatalf("after %d more: %v", n, err)
					}
					if err := v.see(p); err != nil {
						t.Fatal(err)
					}
				}
				if n := s.Stats().FramesOut + st.Conflated; n < keys*rounds+rounds {
					t.Errorf("%d frames were sent or replaced, want %d", n, keys*rounds+rounds)
				}
				s.Close()
				<-closed
			})
		}
	}
	t.Run("without keys", func(t *testing.T) {
		url := srv.URLs()[0]
		_, s, _, _ := feed(t, url, "tcp", func(_ *Session, key, seq uint32) error {
			_, err := srv.Group(url).Send(1, 1, value(key, seq, size))
			return err
		})
		waitFor(t, "the slow consumer's end", func() bool {
			s.Push(1, 2, value(0, 0, size)) // one that has met ErrBusy ends with what comes next
			return Reason(s.closing.Load()) == ReasonSlowConsumer
		})
		<-closed
	})
}

// A session that is away is kept the latest state, however often that changes; when it is
// back, what has no key has been lost or doubled nowhere, and no count is off.
func TestKeyedPushesToSessionsThatAreAway(t *testing.T) {
	const keys, size = 50, 500
	cuts := 25
	if *long {
		cuts = 400
	}
	sessions := make(chan *Session, 1)
	cfg := resumeConfig("tcp://127.0.0.1:0")
	cfg.ResumeBytes, cfg.MaxOutbound, cfg.SocketSendBuffer = 64<<10, 128<<10, 8<<10
	srv := serve(t, cfg, &funcs{accept: func(s *Session) { sessions <- s }})
	p := &resumer{url: srv.URLs()[0], ackEvery: 7}
	v := &tape{newest: map[uint32]uint32{}}
	seq, marks := uint32(0), uint32(0)
	var s *Session
	rounds := func(n int) {
		for range n {
			seq++
			for key := range uint32(keys) {
				if err := s.PushKeyed(uint64(key), 1, 1, value(key, seq, size)); err != nil {
					t.Fatal(err)
				}
			}
		}
		marks++
		if err := s.Push(1, 2, value(0, marks, 8)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range cuts {
		down := -1
		if i > 0 {
			down = 100 + rand.IntN(2*keys*size)
		}
		err := p.connect(-1, down)
		if i == 0 {
			if err != nil {
				t.Fatal(err)
			}
			s = <-sessions
		}
		for n := 0; err == nil && (n < keys/2 || rand.IntN(keys) > 0); n++ {
			if n%8 == 0 {
				rounds(1)
			}
			if err = p.next(); err == nil {
				err = v.see(p.got[len(p.got)-1])
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		p.close()
		waitFor(t, "the break", s.Detached)
		rounds(40) // a megabyte
		if st := s.Stats(); st.Unsent > cfg.MaxOutbound {
			t.Fatalf("%d bytes are unsent", st.Unsent)
		}
	}
	err := p.connect(-1, -1)
	if errors.Is(err, errCut) { // the last one broke in front of the proof of its WELCOME
		err = p.connect(-1, -1)
	}
	if err != nil {
		t.Fatal(err)
	}
	for v.marks < marks || func() bool {
		for key := range uint32(keys) {
			if v.newest[key] < seq {
				return true
			}
		}
		return false
	}() {
		if err := p.next(); err != nil {
			t.Fatalf("at mark %d of %d: %v", v.marks, marks, err)
		}
		if err := v.see(p.got[len(p.got)-1]); err != nil {
			t.Fatal(err)
		}
	}
	// A connection that breaks in front of the proof of its WELCOME costs one more.
	if st := srv.Stats(); st.Resumed != p.resumed || p.resumed < uint64(cuts)/2 || st.Conflated < uint64(cuts)*keys*20 {
		t.Errorf("%d resumed, the peer %d of %d times; %d replaced", st.Resumed, p.resumed, cuts, st.Conflated)
	}
	p.write(SubBye, nil)
	p.close()
}

// What is pushed in a new framing takes no place in front of the answer that ends the old.
func TestKeyedPushesStayBehindAChangeOfFraming(t *testing.T) {
	sessions := make(chan *Session, 1)
	cfg := Config{Addrs: []string{"tcp://127.0.0.1:0"}, Framer: must(codec.ParseFramer("line", 0))}
	cfg.Framings = map[string]Framing{cfg.Addrs[0]: {Framer: cfg.Framer, Switches: true}}
	srv := serve(t, cfg, &funcs{accept: func(s *Session) { sessions <- s }, read: func(s *Session, p codec.Packet) {
		g := s.Server().Group("g")
		g.Join(s)
		s.PushKeyed(1, 0, 0, []byte("old"))
		g.SendKeyed(1, 0, 0, []byte("group, old"))
		s.PushKeyed(1, 0, 0, []byte("old, replaced"))
		if err := s.SetFramer(must(codec.ParseFramer("delimiter=7c", 0)), true, codec.Packet{Body: []byte("now with bars")}); err != nil {
			t.Error(err)
		}
		s.PushKeyed(1, 0, 0, []byte("new"))
		g.SendKeyed(1, 0, 0, []byte("group, new"))
	}})
	c := dial(t, srv)
	<-sessions
	c.Write([]byte("go\n"))
	want := "old, replaced\ngroup, old\nnow with bars\nnew|group, new|"
	got := make([]byte, len(want))
	c.SetDeadline(time.Now().Add(20 * time.Second))
	for n := 0; n < len(got); {
		m, err := c.Read(got[n:])
		if n += m; err != nil {
			t.Fatalf("%q, %v", got[:n], err)
		}
	}
	if string(got) != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
