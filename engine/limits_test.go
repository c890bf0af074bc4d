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

	"millrace/codec"
)

// Over MaxConns a connection gets ERROR 12 and a FIN; when one goes, another may come.
func TestMaxConns(t *testing.T) {
	for _, accept := range []AcceptMode{AcceptReusePort, AcceptSingle} {
		srv := serve(t, Config{Limits: Limits{MaxConns: 5}, Accept: accept, Timeouts: Timeouts{Linger: 50 * time.Millisecond}}, &funcs{read: echo})
		var in []*client
		for range 5 {
			c := dial(t, srv)
			c.send(1, 1, "x")
			c.expect(1, 1, "x")
			in = append(in, c)
		}
		for range 30 {
			c := dial(t, srv)
			c.Write(frame(1, 1, "a request that will not be served"))
			c.expectError(CodeLimit, 0)
			c.Close()
		}
		if got := srv.Stats().Refused[RefusedConns]; got != 30 {
			t.Errorf("%d refused", got)
		}
		in[0].Close()
		waitFor(t, "a slot", func() bool { return srv.table.count() == 4 })
		c := dial(t, srv)
		c.send(1, 1, "y")
		c.expect(1, 1, "y")
		in[1].send(1, 1, "z")
		in[1].expect(1, 1, "z")
	}
}

// MaxConnsPerIP holds for each address by itself, and is given back.
func TestMaxConnsPerIP(t *testing.T) {
	srv := serve(t, Config{Limits: Limits{MaxConnsPerIP: 3, MaxConns: 10}, Addrs: []string{"tcp://0.0.0.0:0"}, Timeouts: Timeouts{Linger: 50 * time.Millisecond}}, &funcs{read: echo})
	port := srv.Addrs()[0].(*net.TCPAddr).Port
	from := func(ip string) *client {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
		nc, err := d.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { nc.Close() })
		return &client{Conn: nc, t: t, r: codec.NewReader(nc, nil)}
	}
	for round := range 3 {
		var in []*client
		for i := range 3 {
			for k := range 3 {
				c := from(fmt.Sprintf("127.0.0.%d", 2+i))
				c.send(1, 1, fmt.Sprint(k))
				c.expect(1, 1, fmt.Sprint(k))
				in = append(in, c)
			}
			c := from(fmt.Sprintf("127.0.0.%d", 2+i))
			c.expectError(CodeLimit, 0)
			c.expectEOF()
			c.Close()
		}
		last := from("127.0.0.9") // MaxConns
		last.send(1, 1, "x")
		last.expect(1, 1, "x")
		full := from("127.0.0.10")
		full.expectError(CodeLimit, 0)
		full.Close()
		for _, c := range append(in, last) {
			c.Close()
		}
		waitFor(t, "all to go", func() bool { return srv.table.count() == 0 })
		if n := srv.perIP.Len(); n != 0 {
			t.Errorf("round %d: %d addresses still counted", round, n)
		}
	}
	if st := srv.Stats(); st.Refused[RefusedPerIP] != 9 || st.Refused[RefusedConns] != 3 {
		t.Errorf("refused %v", st.Refused)
	}
}

// Clients that are refused, and send all the same, see the ERROR and the end: as many at
// a time as MaxRefused says.
func TestRefusedClientsSeeWhy(t *testing.T) {
	const clients = 200
	srv := serve(t, Config{Limits: Limits{MaxConns: 1, MaxRefused: 2 * clients}, Timeouts: Timeouts{Linger: time.Minute}}, &funcs{read: echo})
	first := dial(t, srv)
	first.send(1, 1, "x")
	first.expect(1, 1, "x")
	var wg sync.WaitGroup
	var told, reset atomic.Int32
	for range clients {
		c := dial(t, srv)
		wg.Add(1)
		go func() {
			defer wg.Done()
			for range 20 { // also after the server has refused it
				if _, err := c.Write(frame(1, 1, "hello")); err != nil {
					reset.Add(1)
					break
				}
				time.Sleep(5 * time.Millisecond)
			}
			p, err := c.read()
			if err == nil && p.Sub == SubError {
				told.Add(1)
				_, err = c.read()
			}
			if err != io.EOF {
				reset.Add(1)
			}
		}()
	}
	wg.Wait()
	if told.Load() != clients || reset.Load() != 0 {
		t.Errorf("%d of %d were told, %d reset", told.Load(), clients, reset.Load())
	}
}

// All sessions together stay near the memory budget: reading of the largest pauses, and
// in the end everything is answered.
func TestMemoryBudget(t *testing.T) {
	const budget = 4 << 20
	srv := serve(t, Config{Limits: Limits{MemoryBudget: budget}, Dispatch: Ordered, Workers: 2, SpareWorkers: Off, Timeouts: Timeouts{Linger: 50 * time.Millisecond}}, &funcs{read: func(s *Session, p codec.Packet) {
		time.Sleep(100 * time.Microsecond)
		s.Reply(p, p.Body[:8])
	}})
	const clients, frames = 16, 60
	small := dial(t, srv)
	small.send(1, 1, "warm-up!")
	small.expect(1, 1, "warm-up!")
	var wg sync.WaitGroup
	for range clients {
		c := dial(t, srv)
		wg.Add(2)
		go func() {
			defer wg.Done()
			b := frame(1, 1, strings.Repeat("x", 60_000))
			for range frames {
				c.Write(b)
			}
		}()
		go func() {
			defer wg.Done()
			for range frames {
				c.expect(1, 1, "xxxxxxxx")
			}
		}()
	}
	done := make(chan bool)
	go func() { wg.Wait(); close(done) }()
	peak, starving := 0, 0
	for running := true; running; {
		select {
		case <-done:
			running = false
		case <-time.After(time.Millisecond):
		}
		st := srv.Stats()
		peak, starving = max(peak, st.Memory), max(starving, st.Starving)
	}
	if peak > budget*3/2 || starving == 0 {
		t.Errorf("at most %d bytes waited, budget %d; %d starving", peak, budget, starving)
	}
	small.send(1, 1, "after it")
	small.expect(1, 1, "after it")
	t.Logf("at most %.1f MiB waited, %d sessions starving", float64(peak)/mib, starving)
}

// Functions that wait in one session are bounded, and each that was accepted runs once.
func TestMaxTasks(t *testing.T) {
	gate, inside, ran := make(chan bool), make(chan bool, 1), 0
	d := newDesk(t, Config{Limits: Limits{MaxTasks: 10}}, &funcs{})
	s, _ := d.open(-1)
	d.settleAll()
	s.Submit(func() { inside <- true; <-gate })
	<-inside
	for i := range 20 {
		err := s.Submit(func() { ran++ })
		if i < 10 && err != nil || i >= 10 && !errors.Is(err, ErrBusy) {
			t.Errorf("function %d: %v", i, err)
		}
	}
	s.Close()
	if err := s.Submit(func() {}); !errors.Is(err, ErrClosed) {
		t.Errorf("after close: %v", err)
	}
	close(gate)
	d.settleAll()
	if ran != 10 {
		t.Errorf("%d of the 10 accepted functions ran", ran)
	}
}

// Bodies have their limit wherever they are sent from.
func TestBodiesThatAreTooLarge(t *testing.T) {
	d := newDesk(t, Config{MaxFrame: 1000}, &funcs{})
	s, w := d.open(-1)
	g := d.Group("g")
	g.Join(s)
	for _, n := range []int{0, 996, 997, 100_000} {
		b := make([]byte, n)
		_, groupErr := g.Send(1, 1, b)
		_, ownErr := s.SendGroup(g, 1, 1, b)
		for how, err := range map[string]error{"Send": s.Send(1, 1, b), "Push": s.Push(1, 1, b), "Reply": s.Reply(codec.Packet{}, b), "Server.Send": d.Send(s.ID(), 1, 1, b),
			"Broadcast": d.Broadcast(1, 1, b), "Session.Broadcast": s.Broadcast(1, 1, b), "Group.Send": groupErr, "SendGroup": ownErr} {
			if want := n > 996; errors.Is(err, ErrFrameTooLarge) != want || !want && err != nil {
				t.Errorf("%s of %d bytes: %v", how, n, err)
			}
		}
	}
	d.settleAll()
	if want := 8 * (8 + 8 + 996); len(w.got) != want {
		t.Errorf("%d bytes sent, want %d", len(w.got), want)
	}
}

// What a session may leave unsent is bounded however it is sent, and so is what all of a
// loop's broadcasts leave.
func TestOutboundIsBoundedHoweverItIsSent(t *testing.T) {
	const limit, outbox = 64 << 10, 256 << 10
	body := make([]byte, 1000)
	for _, how := range []string{"send", "push", "broadcast", "group"} {
		t.Run(how, func(t *testing.T) {
			d := newDesk(t, Config{Limits: Limits{MaxOutbound: limit, MaxOutbox: outbox}}, &funcs{})
			var all []*Session
			for range 10 {
				s, _ := d.open(0)
				d.Group("g").Join(s)
				all = append(all, s)
			}
			d.settleAll()
			var err error
			peak, refused := 0, 0
			for i := range 5000 {
				switch how {
				case "send":
					err = all[i%10].Send(1, 1, body)
				case "push":
					err = all[i%10].Push(1, 1, body)
				case "broadcast":
					err = d.Broadcast(1, 1, body)
				case "group":
					_, err = d.Group("g").Send(1, 1, body)
				}
				if errors.Is(err, ErrBusy) {
					refused++
				}
				peak = max(peak, int(d.l.out.Queued.Load()))
				if i%1000 == 999 {
					d.turns()
				}
			}
			d.settleAll()
			if peak > outbox+10*1008 {
				t.Errorf("%d bytes waited on the loop, limit %d", peak, outbox)
			}
			if st := d.Stats(); st.Memory > 10*(2*limit+1008) { // what is held grows in steps of two
				t.Errorf("%d bytes held by 10 sessions of %d", st.Memory, limit)
			}
			slow := d.Stats().Closes[ReasonSlowConsumer]
			if how == "send" && (slow != 0 || refused == 0) || how != "send" && slow != 10 {
				t.Errorf("%d closed as slow consumers, %d refused", slow, refused)
			}
		})
	}
}
