package gnetio

import (
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A loop reads also while gnet has tasks whenever it looks: one may be given connection after
// connection, and who queues a task may be held up before it wakes gnet.
func TestReaderLooksOnceBesideTasks(t *testing.T) {
	h := &echoHost{}
	n := listen(t, Config{Loops: 1}, h)
	c := dial(t, n.Addrs()[0])
	c.says("before")
	el := h.all()[0]
	tasks := el.n.(*loop).reader.Load().tasks
	el.wait(t, func() { atomic.StoreInt32(tasks, 1) })
	c.says("beside a task")
	el.wait(t, func() { atomic.StoreInt32(tasks, 0) })
	c.says("behind it")
}

// A network that stops as soon as a connection has made a loop known leaves no descriptor: the
// loop's ring may be on its way then.
func TestStopBehindTheFirstConnection(t *testing.T) {
	before := openFiles(t)
	for range 40 {
		h := &echoHost{}
		n, err := tryListen(t, Config{Loops: 1, Single: true}, h)
		if err != nil {
			t.Fatal(err)
		}
		c, err := net.Dial("tcp", n.Addrs()[0].String())
		if err != nil {
			t.Fatal(err)
		}
		halt(t, n, h)
		c.Close()
	}
	waitFor(t, "the descriptors to be closed", func() bool { return openFiles(t) <= before })
}

// Nothing that a peer leaves behind keeps a loop awake: an urgent byte, a FIN or a reset, read
// or while reading is paused.
func TestNothingKeepsALoopAwake(t *testing.T) {
	for _, cfg := range []Config{{Loops: 1}, {Loops: 1, Addrs: []string{"unix://" + t.TempDir() + "/s"}}} {
		h := &echoHost{received: func(e *echo, b []byte) bool { e.tag = b[0]; return false }}
		n := listen(t, cfg, h)
		network := n.Addrs()[0].Network()
		seen := byte('a')
		for _, what := range []string{"urgent", "urgent twice", "hello, urgent", "paused, urgent", "paused, FIN", "paused, CloseWrite, FIN", "paused, reset"} {
			c := dial(t, n.Addrs()[0])
			seen++
			c.says(string(seen))
			el := h.all()[0]
			var e *echo
			el.wait(t, func() {
				for x := range el.conns {
					if x.tag == seen {
						e = x
					}
				}
			})
			urgent := func() {
				raw, err := c.Conn.(syscall.Conn).SyscallConn()
				if err == nil {
					_ = raw.Control(func(fd uintptr) { err = unix.Sendto(int(fd), []byte("!"), unix.MSG_OOB, nil) })
				}
				if err != nil && network == "tcp" {
					t.Error(err) // a unix socket may have no urgent bytes here
				}
			}
			pause := func() { el.wait(t, func() { e.PauseReading(true) }) }
			switch what {
			case "urgent":
				urgent()
			case "urgent twice":
				urgent()
				urgent()
			case "hello, urgent":
				c.send("Hello")
				urgent()
			case "paused, urgent":
				pause()
				urgent()
			case "paused, FIN":
				pause()
				c.closeWrite()
			case "paused, CloseWrite, FIN":
				pause()
				el.wait(t, func() { e.CloseWrite() })
				c.closeWrite()
			case "paused, reset":
				pause()
				c.send("never read")
				if tc, ok := c.Conn.(*net.TCPConn); ok {
					_ = tc.SetLinger(0)
				}
				c.Close()
			}
			rd := el.n.(*loop).reader.Load()
			for range 3 { // it may come with a delay
				waitFor(t, "the loop to sleep behind: "+what+" over "+network, rd.asleep.Load)
				time.Sleep(2 * time.Millisecond)
			}
		}
		left := 5
		if network == "unix" {
			left = 6 // a close there is no reset, and is told when reading resumes
		}
		waitFor(t, "those that have ended to be closed", func() bool { return h.count() == left })
	}
}

// So does one that stops as soon as a stand-in has given connections to another loop.
func TestStopBehindAStandInThatGave(t *testing.T) {
	before := openFiles(t)
	for range 20 {
		h := &echoHost{}
		held, gate := make(chan bool), make(chan bool)
		h.received = func(e *echo, b []byte) bool {
			giveBack, ok := e.l.n.StandIn(e.Conn, e.l.each())
			held <- ok
			<-gate
			giveBack()
			gate <- true
			return false
		}
		n, err := tryListen(t, Config{Loops: 2}, h)
		if err != nil {
			t.Fatal(err)
		}
		at := n.Addrs()[0].String()
		c, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		cs := []net.Conn{c}
		c.Write([]byte("x"))
		if !<-held {
			t.Fatal("no stand-in")
		}
		for range 8 {
			if c, err := net.Dial("tcp", at); err == nil {
				cs = append(cs, c)
			}
		}
		gate <- true
		<-gate
		halt(t, n, h)
		for _, c := range cs {
			c.Close()
		}
	}
	waitFor(t, "the descriptors to be closed", func() bool { return openFiles(t) <= before })
}
