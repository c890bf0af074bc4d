package gnetio

import (
	"context"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/panjf2000/gnet/v2"
)

// setOf is what is in an epoll set.
func setOf(t testing.TB, epfd int) []int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprint("/proc/self/fdinfo/", epfd))
	if err != nil {
		t.Fatal(err)
	}
	return epollMembers(b)
}

// Whoever accepts, a loop reads its connections itself, and gnet no more; and where it may
// not, gnet does.
func TestLoopsReadThemselves(t *testing.T) {
	for _, cfg := range []Config{
		{Loops: 1},
		{Loops: 1, Single: true},
		{Loops: 1, Single: true, Balance: LeastConnections},
		{Loops: 1, Addrs: []string{"unix://" + t.TempDir() + "/s"}},
		{Loops: 1, ReadByGnet: true},
	} {
		t.Run(fmt.Sprint(cfg.Single, cfg.Balance, len(cfg.Addrs), cfg.ReadByGnet), func(t *testing.T) {
			h := &echoHost{}
			n := listen(t, cfg, h)
			var cs []*client
			for range 3 {
				c := dial(t, n.Addrs()[0])
				c.says("hello")
				cs = append(cs, c)
			}
			el := h.all()[0]
			l := el.n.(*loop)
			read := func() (n int) {
				el.wait(t, func() {
					for _, c := range l.conns {
						if c != nil && c.hands != gnetReads {
							n++
						}
					}
				})
				return n
			}
			if cfg.ReadByGnet {
				if got := read(); got != 0 || l.made != nil {
					t.Errorf("%d connections are read by the loop, want none", got)
				}
				return
			}
			waitFor(t, "the loop to read all of them", func() bool { return read() == 3 })
			cs[0].says("again")
			rd := l.reader.Load()
			if got := len(setOf(t, rd.epfd)); got != 3+2 {
				t.Errorf("%d descriptors in the reader's set, want 3 connections, gnet's set and what wakes it", got)
			}
			for _, c := range cs {
				c.Close()
			}
			waitFor(t, "all to be forgotten", func() bool { return len(setOf(t, rd.epfd)) == 2 })
		})
	}
}

// Of a connection that half closes while something is owed, a duplicate of the descriptor
// lives on: the reader must hear no more of it.
func TestReaderForgetsWhatIsDetached(t *testing.T) {
	h := &echoHost{}
	n := listen(t, Config{Loops: 1, SocketSendBuffer: 16 << 10}, h)
	c := dial(t, n.Addrs()[0])
	c.says("first")
	el := h.all()[0]
	rd := el.n.(*loop).reader.Load()
	big := make([]byte, 4<<20)
	go func() { c.send(string(big)); c.closeWrite() }()
	waitFor(t, "it to be detached", func() (detached bool) {
		h.mu.Lock()
		var es []*echo
		for _, e := range h.ids {
			es = append(es, e)
		}
		h.mu.Unlock()
		el.wait(t, func() {
			for _, e := range es {
				detached = detached || e.detached
			}
		})
		return detached
	})
	if got := len(setOf(t, rd.epfd)); got != 2 {
		t.Errorf("%d descriptors in the reader's set, want 2", got)
	}
	c.gets(string(big))
	c.getsEOF()
}

// A turn that is asked for comes, also when the loop is just going to sleep, and however
// often it has been woken.
func TestEveryAskedTurnComes(t *testing.T) {
	h := &echoHost{}
	n := listen(t, Config{Loops: 1}, h)
	dial(t, n.Addrs()[0]).says("hello")
	el := h.all()[0]
	for range 2000 {
		el.wait(t, func() {})
	}
	var wg sync.WaitGroup
	var ran atomic.Int32
	for range 4 {
		wg.Go(func() {
			for range 500 {
				done := make(chan struct{})
				el.do(func() { ran.Add(1); close(done) })
				select {
				case <-done:
				case <-time.After(time.Minute):
					t.Error("a turn did not come")
					return
				}
			}
		})
	}
	wg.Wait()
	if ran.Load() != 2000 {
		t.Errorf("%d of 2000 turns came", ran.Load())
	}
}

// What gnet is asked to do is done although the loop is always busy reading, and although
// it may be asked at any moment.
func TestReaderLeavesTheLoopToGnet(t *testing.T) {
	h := &echoHost{}
	n := listen(t, Config{Loops: 1}, h)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(stop)
	for range 4 {
		c := dial(t, n.Addrs()[0])
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					c.says("busy")
				}
				if t.Failed() {
					return
				}
			}
		})
	}
	waitFor(t, "a loop", func() bool { return len(h.all()) == 1 })
	l := h.all()[0].n.(*loop)
	for i := range 3000 {
		done := make(chan struct{})
		if err := l.el.Execute(t.Context(), gnet.RunnableFunc(func(context.Context) error { close(done); return nil })); err != nil {
			t.Fatal(err)
		}
		select {
		case <-done:
		case <-time.After(time.Minute):
			t.Fatalf("task %d did not run", i)
		}
		if i%100 == 0 {
			dial(t, n.Addrs()[0]).says("new")
		}
	}
}

// Of two connections that are readable at once, the one that is read first closes the
// other: nothing more is heard of that, and one that comes later is not taken for it.
func TestEventsOfWhatHasGoneArePassedOver(t *testing.T) {
	h := &echoHost{}
	gate := make(chan bool)
	held := make(chan *echo, 1)
	var gone sync.Map
	h.received = func(e *echo, b []byte) bool {
		if _, ok := gone.Load(e); ok {
			t.Error("a connection that has gone was read")
		}
		switch b[0] {
		case 'S':
			held <- e
			<-gate
		case 'K': // all the others but the one that held
			for o := range e.l.conns {
				if o != e && o.tag == 'K' {
					gone.Store(o, true)
					o.end()
				}
			}
		}
		return true
	}
	n := listen(t, Config{Loops: 1}, h)
	a := n.Addrs()[0]
	busy := dial(t, a)
	busy.send("S")
	<-held
	gate <- true
	for range 20 {
		var cs []net.Conn
		for range 6 {
			cs = append(cs, dial(t, a))
		}
		waitFor(t, "them to be there", func() bool { return h.count() == 7 })
		h.all()[0].wait(t, func() {
			for e := range h.all()[0].conns {
				if e.tag == 0 {
					e.tag = 'K'
				}
			}
		})
		busy.send("S")
		<-held
		for _, c := range cs {
			c.Write([]byte("K"))
		}
		gate <- true
		waitFor(t, "one to be left", func() bool { return h.count() == 2 })
		for _, c := range cs {
			c.Close()
		}
		waitFor(t, "none to be left", func() bool { return h.count() == 1 })
	}
}

// Loops that end leave no descriptor of a reader.
func TestReadersAreClosed(t *testing.T) {
	before := openFiles(t)
	for range 5 {
		h := &echoHost{}
		n, err := tryListen(t, Config{Loops: 2}, h)
		if err != nil {
			t.Fatal(err)
		}
		dial(t, n.Addrs()[0]).says("x")
		halt(t, n, h)
	}
	waitFor(t, "the descriptors to be closed", func() bool { return openFiles(t) <= before+5 }) // the clients'
}

// The word of gnet's that says that tasks wait is where it is looked for.
func TestTasksOfGnetAreSeen(t *testing.T) {
	h := &echoHost{}
	gate, held := make(chan bool), make(chan bool)
	h.received = func(*echo, []byte) bool { held <- true; <-gate; return true }
	n := listen(t, Config{Loops: 1}, h)
	dial(t, n.Addrs()[0]).send("x")
	<-held
	l := h.all()[0].n.(*loop)
	tasks := tasksOf(l.el)
	if tasks == nil {
		t.Fatal("not found")
	}
	if got := atomic.LoadInt32(tasks); got != 0 {
		t.Errorf("%d with no task, want 0", got)
	}
	done := make(chan bool)
	_ = l.el.Execute(t.Context(), gnet.RunnableFunc(func(context.Context) error { close(done); return nil }))
	if got := atomic.LoadInt32(tasks); got == 0 {
		t.Error("0 with a task that waits")
	}
	gate <- true
	<-done
	waitFor(t, "the word to be 0 again", func() bool { return atomic.LoadInt32(tasks) == 0 })
	if got := tasksOf(strangeLoop{}); got != nil {
		t.Error("found in something else")
	}
}

type strangeLoop struct{ gnet.EventLoop }
