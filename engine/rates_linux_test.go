package engine

import (
	"net"
	"runtime"
	"testing"
	"time"

	"millrace/codec"
	"millrace/engine/internal/cputime"
)

// answer reads the answer to 1/1; ACKs may come in front of it.
func (c *client) answer(body string) {
	c.t.Helper()
	for {
		p, err := c.read()
		if err != nil || p.Main != 0 && string(p.Body) != body {
			c.t.Fatalf("got %d/%d %.80q, %v, want %.80q", p.Main, p.Sub, p.Body, err, body)
		}
		if p.Main != 0 {
			return
		}
		if p.Sub != SubAck && p.Sub != SubWelcome {
			c.t.Fatalf("got %d/%d %q", p.Main, p.Sub, p.Body)
		}
	}
}

func (c *client) ask(body string) {
	c.t.Helper()
	c.send(1, 1, body)
	c.answer(body)
}

// spin uses 2 ms of a CPU.
func spin() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for end := cputime.Thread() + 2*time.Millisecond; cputime.Thread() < end; {
	}
}

// Past its rate a session is not read from until the rate allows for what was read; others
// are, it is not idle meanwhile, and nothing of it is lost. So through TLS, and where sessions
// can be resumed.
func TestSessionsAreReadAtTheirRate(t *testing.T) {
	for name, x := range map[string]struct {
		limit Throttle
		load  Overload
		spend func(srv *Server, c *client)
		least time.Duration // what it takes at least
	}{
		"frames": {ThrottleFrameRate, Overload{FrameRate: 1000}, func(_ *Server, c *client) {
			var b []byte
			for range 1500 {
				b = append(b, frame(1, 1, "")...)
			}
			c.Write(b)
			for range 1500 {
				c.answer("")
			}
		}, 400 * time.Millisecond},
		"bytes": {ThrottleByteRate, Overload{ByteRate: 100_000}, func(_ *Server, c *client) {
			body := string(make([]byte, 50_000))
			for range 3 {
				c.Write(frame(1, 1, body))
			}
			for range 3 {
				c.answer(body)
			}
		}, 400 * time.Millisecond},
		"time": {ThrottleSessionCPU, Overload{SessionCPU: 6 * time.Millisecond}, func(srv *Server, c *client) {
			for n := 0; srv.Stats().Limited[ThrottleSessionCPU] == 0 && n < 1000; n++ {
				c.ask("spin")
			}
			for range 3 { // a second's worth; the last comes too late to count
				c.ask("spin")
			}
		}, 550 * time.Millisecond},
	} {
		for _, resume := range []time.Duration{0, time.Minute} {
			t.Run(name+" "+resume.String(), func(t *testing.T) {
				t.Parallel()
				cfg := Config{Overload: x.load, Timeouts: Timeouts{IdleTimeout: 250 * time.Millisecond, Resume: resume}, Addrs: []string{"tcp://127.0.0.1:0", "tls://127.0.0.1:0"}}
				cfg.TLS = serverTLS()
				srv := serve(t, cfg, &funcs{read: func(s *Session, p codec.Packet) {
					if string(p.Body) == "spin" {
						spin()
					}
					s.Reply(p, p.Body)
				}})
				c := &client{Conn: dialDoor(t, srv.URLs()[1], "tls", ""), t: t}
				c.r = codec.NewReader(c, nil)
				if resume > 0 {
					c.send(0, SubHello, "\x01\x00")
				}
				began := time.Now()
				x.spend(srv, c)
				c.send(1, 1, "late")
				waitFor(t, "the pause", func() bool { return srv.Stats().Limited[x.limit] > 0 })
				other := dial(t, srv)
				other.ask("others")
				c.answer("late")
				if took := time.Since(began); took < x.least {
					t.Errorf("it took %v, want %v or more", took, x.least)
				}
				for l, n := range srv.Stats().Limited {
					if l != x.limit && n > 0 {
						t.Errorf("%v has held up %d times", l, n)
					}
				}
			})
		}
	}
}

// A server that stops does not wait until a rate allows for it.
func TestRatesHoldNoDrainUp(t *testing.T) {
	srv := serve(t, Config{Overload: Overload{FrameRate: 1}, Timeouts: Timeouts{Linger: 50 * time.Millisecond}}, &funcs{read: echo})
	c := dial(t, srv)
	var b []byte
	for range 100 {
		b = append(b, frame(1, 1, "")...)
	}
	c.Write(b)
	for range 100 {
		c.expect(1, 1, "")
	}
	c.send(1, 1, "not read")
	waitFor(t, "the pause", func() bool { return srv.Stats().Limited[ThrottleFrameRate] > 0 })
	if err := srv.Stop(within(t, 20*time.Second)); err != nil {
		t.Errorf("Stop: %v", err)
	}
	c.SetDeadline(time.Now().Add(20 * time.Second))
	for {
		p, err := c.r.Next()
		if err != nil {
			t.Fatalf("%v in front of the answer", err)
		}
		if p.Main == 1 && string(p.Body) == "not read" {
			return
		}
	}
}

// dialFrom dials from an address of the machine's own, and tells whether it got a session.
func dialFrom(t *testing.T, srv *Server, ip string) (ok bool) {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}, Timeout: 20 * time.Second}
	conn, err := d.Dial("tcp", srv.Addrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	conn.Write(frame(1, 1, "hello"))
	p, err := codec.NewReader(conn, nil).Next()
	switch {
	case err != nil:
		t.Fatalf("%v in front of an answer", err)
	case p.Main == 1:
		return true
	case p.Sub != SubError || string(p.Body[:6]) != "\x00\x0c\x00\x00\x00\x00":
		t.Fatalf("got %d/%d %q, want ERROR 12 about 0", p.Main, p.Sub, p.Body)
	}
	return false
}

// Connections come at a rate, all and those of each address; more get ERROR 12.
func TestConnectionsComeAtARate(t *testing.T) {
	for _, resume := range []time.Duration{0, time.Minute} {
		cfg := Config{Overload: Overload{AcceptRate: 40, AcceptRatePerIP: 4}, Timeouts: Timeouts{Resume: resume}}
		srv := serve(t, cfg, &funcs{read: echo})
		came := map[string]int{}
		began := time.Now()
		for range 20 {
			for _, ip := range []string{"127.0.0.1", "127.0.0.2"} {
				if dialFrom(t, srv, ip) {
					came[ip]++
				}
			}
		}
		most := 5 + int(4*time.Since(began).Seconds())
		for ip, n := range came {
			if n < 4 || n > most {
				t.Errorf("%d came from %s, want 4 to %d", n, ip, most)
			}
		}
		if n := srv.Stats().Refused[RefusedRatePerIP]; int(n) != 40-came["127.0.0.1"]-came["127.0.0.2"] {
			t.Errorf("%d refused, %v came of 40", n, came)
		}
		for i := 0; srv.Stats().Refused[RefusedRate] == 0; i++ {
			dialFrom(t, srv, net.IPv4(127, 0, 1, byte(i)).String())
			if i == 250 {
				t.Fatal("250 came, at 40 a second")
			}
		}
	}
}

// AcceptRate stands in front of TLS: no handshake is worked at for who is over it.
func TestTheAcceptRateStandsInFrontOfTLS(t *testing.T) {
	srv := serve(t, Config{Addrs: []string{"tls://127.0.0.1:0"}, Doors: Doors{TLS: serverTLS()}, Overload: Overload{AcceptRate: 3}}, &funcs{read: echo})
	came := 0
	for range 20 {
		c := dialDoor(t, srv.URLs()[0], "tls", "")
		c.SetDeadline(time.Now().Add(20 * time.Second))
		c.Write(frame(1, 1, ""))
		if _, err := codec.NewReader(c, nil).Next(); err == nil {
			came++
		}
	}
	st := srv.Stats()
	if came < 3 || came == 20 || int(st.Refused[RefusedRate]) != 20-came || int(st.Doors.Handshakes) > came {
		t.Errorf("%d of 20 came, %d refused, %d handshakes", came, st.Refused[RefusedRate], st.Doors.Handshakes)
	}
}
