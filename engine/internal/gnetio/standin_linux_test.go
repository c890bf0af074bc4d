package gnetio

import (
	"fmt"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"millrace/engine/internal/netio"
)

// stuck is a host whose connections that say "S" hold their loop up until something comes through gate.
type stuck struct {
	echoHost
	in   chan *echo
	gate chan bool
}

func newStuck(how func(gate chan bool)) *stuck {
	h := &stuck{in: make(chan *echo, 1), gate: make(chan bool)}
	h.received = func(e *echo, b []byte) bool {
		switch b[0] {
		case 'S':
			h.in <- e
			how(h.gate)
		case 'P': // pauses, and goes on when it is told to
			e.PauseReading(true)
		}
		return false
	}
	return h
}

// While a callback holds the only loop up, the other connections are echoed, end, half
// close and pause, and turns run; afterwards everything goes on.
func TestStandInServesTheOthers(t *testing.T) {
	h := newStuck(func(gate chan bool) { <-gate })
	n := listen(t, Config{Loops: 1, SocketSendBuffer: 128 << 10, MaxRefused: 8}, &h.echoHost)
	busy := dial(t, n.Addrs()[0])
	busy.says("before")
	var cs []*client
	for range 50 {
		c := dial(t, n.Addrs()[0])
		c.says("before")
		cs = append(cs, c)
	}
	l := h.all()[0]
	paused := cs[49]
	paused.says("P")
	l.wait(t, func() {}) // reading is paused
	paused.send("later")
	for round := range 3 {
		busy.send("S")
		e := <-h.in
		giveBack, ok := l.n.StandIn(e.Conn, l.each())
		if !ok {
			t.Fatal("no stand-in")
		}
		if _, ok := l.n.StandIn(e.Conn, l.each()); ok {
			t.Error("a second stand-in")
		}
		live := cs[10*round : 49]
		for i, c := range live[:10] { // these leave
			switch i % 3 {
			case 0:
				c.Close()
			case 1:
				c.Conn.(*net.TCPConn).SetLinger(0)
				c.Close()
			case 2:
				big := strings.Repeat("z", 1<<20)
				go func() { c.send(big); c.closeWrite() }()
				time.Sleep(time.Millisecond) // so that some is owed
				c.gets(big)
				c.getsEOF()
			}
		}
		for _, c := range live[10:] {
			for range 3 {
				c.says("meanwhile")
			}
		}
		waitFor(t, "those that left to go", func() bool { return h.count() == 50+1-10*(round+1) })
		if round == 1 { // the pause ends, and begins again, under the stand-in
			var p *echo
			l.wait(t, func() {
				for e := range l.conns {
					if e.tag == 'b' && e.Unread() == 5 {
						p = e
						e.PauseReading(false)
					}
				}
			})
			paused.gets("later")
			l.wait(t, func() { p.PauseReading(true) })
			paused.send("last")
			live[20].says("other")
		}
		busy.send("more")
		waitFor(t, "the kernel to have what the busy one sent", func() (has bool) {
			l.wait(t, func() { has = e.Unread() >= 4 })
			return has
		})
		for range 10 {
			live[10].says("other")
		}
		l.wait(t, func() {
			if n := e.Unread(); n != 4 {
				t.Errorf("%d of 4 bytes of the busy connection are left: its callback still runs", n)
			}
		})
		var asked atomic.Int32
		go func() { // turns asked for while the loop is given back
			for range 1000 {
				l.do(func() { asked.Add(1) })
			}
		}()
		giveBack()
		giveBack()
		h.gate <- true
		waitFor(t, "every turn that was asked for", func() bool { return asked.Load() == 1000 })
		busy.gets("Smore")
		for _, c := range live[10:] {
			c.says("afterwards")
		}
		busy.says("too")
	}
	l.wait(t, func() {
		for e := range l.conns {
			if e.Unread() > 0 {
				e.PauseReading(false)
			}
		}
	})
	paused.gets("last")
	c := dial(t, n.Addrs()[0])
	c.says("new")
}

// With the loop's goroutine inside a turn, nobody is busy and all are served.
func TestStandInForATurn(t *testing.T) {
	h := newStuck(nil)
	n := listen(t, Config{Loops: 1}, &h.echoHost)
	c := dial(t, n.Addrs()[0])
	c.says("x")
	l := h.all()[0]
	in := make(chan bool)
	l.do(func() { close(in); <-h.gate })
	<-in
	var asked atomic.Bool
	l.do(func() { asked.Store(true) })
	giveBack, ok := l.n.StandIn(nil, l.each())
	if !ok {
		t.Fatal("no stand-in")
	}
	c.says("meanwhile")
	waitFor(t, "the turn that was asked for before", asked.Load)
	giveBack()
	close(h.gate)
	c.says("afterwards")
}

// A turn that is asked for while the stand-in is inside a callback, and is then given
// back, comes.
func TestTurnAskedForAtGiveBackComes(t *testing.T) {
	h := newStuck(func(gate chan bool) { <-gate })
	n := listen(t, Config{Loops: 1}, &h.echoHost)
	first, second := dial(t, n.Addrs()[0]), dial(t, n.Addrs()[0])
	second.says("x")
	first.send("S")
	e := <-h.in
	l := h.all()[0]
	giveBack, ok := l.n.StandIn(e.Conn, l.each())
	if !ok {
		t.Fatal("no stand-in")
	}
	second.send("S")
	<-h.in
	var asked atomic.Bool
	l.do(func() { asked.Store(true) })
	back := make(chan bool)
	go func() { giveBack(); close(back) }()
	waitFor(t, "the stand-in to be told", func() bool { return l.n.(*loop).standIn.Load() == nil })
	h.gate <- true // one of the two goes on
	h.gate <- true
	<-back
	waitFor(t, "the turn", asked.Load)
	first.gets("S")
	second.gets("S")
}

// Closing the busy connection waits for its callback.
func TestBusyConnectionIsClosedWhenItReturns(t *testing.T) {
	h := newStuck(func(gate chan bool) { <-gate })
	n := listen(t, Config{Loops: 1}, &h.echoHost)
	c := dial(t, n.Addrs()[0])
	c.send("S")
	e := <-h.in
	l := h.all()[0]
	giveBack, ok := l.n.StandIn(e.Conn, l.each())
	if !ok {
		t.Fatal("no stand-in")
	}
	l.wait(t, func() { e.end() })
	c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if _, err := c.Read(make([]byte, 1)); err == nil || err.Error() == "EOF" {
		t.Errorf("got %v while its callback runs", err)
	}
	c.SetReadDeadline(time.Now().Add(time.Minute))
	giveBack()
	close(h.gate)
	c.getsEOF()
}

// What a listener of a loop held up gets goes to another loop, with the options of any
// other connection.
func TestStandInGivesNewConnectionsToOtherLoops(t *testing.T) {
	h := newStuck(func(gate chan bool) { <-gate })
	type option struct{ idle, every, count, nodelay int }
	options := make(chan option, 100)
	h.open = func(e *echo) *netio.Refusal {
		get := func(level, opt int) int { v, _ := unix.GetsockoptInt(e.fd, level, opt); return v }
		options <- option{get(unix.IPPROTO_TCP, unix.TCP_KEEPIDLE), get(unix.IPPROTO_TCP, unix.TCP_KEEPINTVL),
			get(unix.IPPROTO_TCP, unix.TCP_KEEPCNT), get(unix.IPPROTO_TCP, unix.TCP_NODELAY)}
		return nil
	}
	n := listen(t, Config{Loops: 2, Delay: true}, &h.echoHost)
	busy := dial(t, n.Addrs()[0])
	busy.send("S")
	e := <-h.in
	giveBack, ok := e.l.n.StandIn(e.Conn, e.l.each())
	if !ok {
		t.Fatal("no stand-in")
	}
	for range 40 { // half of them come to the listener of the loop held up
		dial(t, n.Addrs()[0]).says("new")
	}
	giveBack()
	close(h.gate)
	busy.gets("S")
	for range 40 {
		dial(t, n.Addrs()[0]).says("new")
	}
	for len(options) > 0 {
		if got := <-options; got != (option{30, 10, 3, 0}) {
			t.Errorf("options %+v", got)
		}
	}
}

// A connection that comes while every loop is held up waits, and is served.
func TestConnectionWaitsWhileEveryLoopIsHeldUp(t *testing.T) {
	h := newStuck(func(gate chan bool) { <-gate })
	n := listen(t, Config{Loops: 2}, &h.echoHost)
	var busy []*client
	var giveBacks []func()
	for range 2 { // the second comes to the other loop, or is given to it
		c := dial(t, n.Addrs()[0])
		c.send("S")
		e := <-h.in
		giveBack, ok := e.l.n.StandIn(e.Conn, e.l.each())
		if !ok {
			t.Fatal("no stand-in")
		}
		busy, giveBacks = append(busy, c), append(giveBacks, giveBack)
	}
	var cs []*client
	for range 20 {
		c := dial(t, n.Addrs()[0])
		c.send("new")
		cs = append(cs, c)
	}
	for _, giveBack := range giveBacks {
		giveBack()
	}
	close(h.gate) // one at a time might let the other's callback go on
	for _, c := range busy {
		c.gets("S")
	}
	for _, c := range cs {
		c.gets("new")
	}
}

// A callback that ends the loop's goroutine ends nobody else's service where a stand-in
// comes, and in any case nothing is left when the network has stopped.
func TestGoexitLeaksNothing(t *testing.T) {
	for _, stand := range []bool{true, false} {
		t.Run(fmt.Sprint("stand-in=", stand), func(t *testing.T) {
			before := openFiles(t)
			var closed atomic.Int32
			h := newStuck(func(chan bool) { runtime.Goexit() })
			h.closed = func(*echo, netio.End) { closed.Add(1) }
			n := listen(t, Config{Loops: 1}, &h.echoHost)
			var cs []*client
			for range 5 {
				c := dial(t, n.Addrs()[0])
				c.says("x")
				cs = append(cs, c)
			}
			cs[0].send("S")
			e := <-h.in
			l := h.all()[0]
			if stand {
				giveBack, ok := l.n.StandIn(e.Conn, l.each())
				if !ok {
					t.Fatal("no stand-in")
				}
				for _, c := range cs[1:] {
					c.says("meanwhile")
				}
				giveBack()
			}
			halt(t, n, &h.echoHost)
			for _, c := range cs {
				if _, err := c.Read(make([]byte, 1)); err == nil {
					t.Error("still open")
				}
				c.Close()
			}
			if closed.Load() != 5 {
				t.Errorf("%d of 5 connections were told", closed.Load())
			}
			waitFor(t, "the descriptors to go", func() bool { return openFiles(t) <= before })
		})
	}
}

// A connection that another one's callback closes while its own event is in the same batch is no
// listener: nothing is accepted from its descriptor, and accepting does not pause.
func TestStandInPassesOverEventsOfClosedConnections(t *testing.T) {
	loopGate, standGate := make(chan bool), make(chan bool)
	in := make(chan *echo, 1)
	opened := make(chan *echo, 4)
	var victim *echo
	h := &echoHost{open: func(e *echo) *netio.Refusal { opened <- e; return nil }}
	h.received = func(e *echo, b []byte) bool {
		switch b[0] {
		case 'L':
			in <- e
			<-loopGate
		case 'S':
			in <- e
			<-standGate
		case 'K':
			victim.end()
		}
		return false
	}
	n := listen(t, Config{Loops: 1}, h)
	var cs [4]*client
	var es [4]*echo
	for i := range cs {
		cs[i] = dial(t, n.Addrs()[0])
		es[i] = <-opened
		cs[i].says("before")
	}
	victim = es[3]
	l := h.all()[0]
	cs[0].send("L")
	giveBack, ok := l.n.StandIn((<-in).Conn, l.each())
	if !ok {
		t.Fatal("no stand-in")
	}
	cs[1].send("S")
	<-in
	for i, text := range []string{2: "K", 3: "victim"} { // both are ready before the stand-in looks again
		if text != "" {
			cs[i].send(text)
			waitFor(t, "the kernel to have it", func() bool { return es[i].Unread() == len(text) })
		}
	}
	close(standGate)
	cs[2].gets("K")
	l.wait(t, func() {}) // behind that batch
	if n := h.acceptErrs.Load(); n != 0 {
		t.Errorf("%d accepts failed", n)
	}
	giveBack()
	close(loopGate)
	cs[0].gets("L")
}

// A sweep of refused connections that was asked of a stand-in which ends before it comes to it is
// made up for.
func TestRefusedAreSweptBehindAStandIn(t *testing.T) {
	loopGate, standGate := make(chan bool), make(chan bool)
	in := make(chan *echo, 1)
	var refuse atomic.Bool
	h := &echoHost{}
	h.open = func(*echo) *netio.Refusal {
		if refuse.Load() {
			return &netio.Refusal{Goodbye: []byte("no")}
		}
		return nil
	}
	h.received = func(e *echo, b []byte) bool {
		switch b[0] {
		case 'L':
			in <- e
			<-loopGate
		case 'S':
			in <- e
			<-standGate
		}
		return false
	}
	n := listen(t, Config{Loops: 1, MaxRefused: 4}, h)
	first, second := dial(t, n.Addrs()[0]), dial(t, n.Addrs()[0])
	first.says("x")
	second.says("x")
	refuse.Store(true)
	dial(t, n.Addrs()[0]).gets("no")
	l := h.all()[0]
	first.send("L")
	giveBack, ok := l.n.StandIn((<-in).Conn, l.each())
	if !ok {
		t.Fatal("no stand-in")
	}
	second.send("S")
	<-in
	n.Guard()
	back := make(chan bool)
	go func() { giveBack(); close(back) }()
	x := l.n.(*loop)
	waitFor(t, "the stand-in to be told", func() bool { return x.standIn.Load() == nil })
	close(standGate)
	<-back
	close(loopGate)
	first.gets("L")
	waitFor(t, "the refused to be let go", func() bool { n.Guard(); return x.refusals.Load() == 0 })
}

// A stand-in that lacks descriptors leaves a connection in the backlog and counts a failed accept, as
// everybody who accepts: it closes none that it has accepted.
func TestAStandInWithoutDescriptorsLosesNobody(t *testing.T) {
	for free := range 3 {
		t.Run(fmt.Sprint(free, " free"), func(t *testing.T) {
			h := newStuck(func(gate chan bool) { <-gate })
			n := listen(t, Config{Loops: 2}, &h.echoHost)
			busy := dial(t, n.Addrs()[0])
			busy.send("S")
			l := (<-h.in).l.n.(*loop)
			fds, _ := n.listeners(l.epfd)
			var c *client
			for c == nil { // until one comes to the listener of the loop held up
				x := dial(t, n.Addrs()[0])
				set := []unix.PollFd{{Fd: int32(fds[0]), Events: unix.POLLIN}}
				if got, err := unix.Poll(set, 0); err != nil {
					t.Fatal(err)
				} else if got > 0 {
					c = x
				} else {
					x.says("other") // so nothing of it takes descriptors later
				}
			}
			si := &standIn{l: l}
			giveBack := leaveFree(t, free)
			si.accept(fds[0])
			giveBack()
			if free < 2 {
				if got := h.acceptErrs.Load(); got != 1 {
					t.Errorf("%d failed accepts are counted, want 1", got)
				}
				if _, deaf := n.listeners(l.epfd); !deaf {
					t.Error("accepting goes on")
				}
				n.Guard()
				si.accept(fds[0])
			}
			c.says("at last")
			close(h.gate)
			busy.gets("S")
		})
	}
}

// leaveFree takes all of the process's descriptors but n, until giveBack is called.
func leaveFree(t *testing.T, n int) (giveBack func()) {
	t.Helper()
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(openFiles(t) + 64), Max: was.Max}); err != nil {
		t.Fatal(err)
	}
	var taken []int
	giveBack = func() {
		for _, fd := range taken {
			unix.Close(fd)
		}
		taken = nil
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
			t.Error(err)
		}
	}
	for {
		fd, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 0)
		if err == unix.EMFILE && len(taken) >= n {
			break
		} else if err != nil {
			giveBack()
			t.Fatal(err)
		}
		taken = append(taken, fd)
	}
	for range n {
		last := len(taken) - 1
		unix.Close(taken[last])
		taken = taken[:last]
	}
	return giveBack
}
