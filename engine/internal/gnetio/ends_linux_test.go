package gnetio

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"millrace/engine/internal/netio"
)

var longEnds = flag.Bool("long-ends", false, "end 10,000 connections of each kind of network")

// However connections end, at once or after some bytes, by whom and at which moment, none leaves a
// descriptor behind, is forgotten or is told of its end twice.
func TestEndsLeaveNoDescriptor(t *testing.T) {
	each := 120
	if *longEnds {
		each = 10_000
	}
	for _, cfg := range []Config{
		{Loops: 1},
		{Single: true},
		{Single: true, Balance: LeastConnections},
		{ReadByGnet: true},
		{Addrs: []string{"tcp://[::1]:0"}},
		{Addrs: []string{"unix://" + t.TempDir() + "/s"}},
	} {
		t.Run(fmt.Sprint(cfg.Loops, cfg.Single, cfg.Balance, cfg.ReadByGnet, cfg.Addrs), func(t *testing.T) {
			var mu sync.Mutex
			opened, ended := 0, map[*echo]int{}
			h := &echoHost{
				open: func(e *echo) *netio.Refusal {
					mu.Lock()
					defer mu.Unlock()
					opened++
					if opened%13 == 0 {
						e.Close() // within Open
					}
					return nil
				},
				received: func(e *echo, b []byte) bool {
					switch b[0] {
					case 'C':
						e.Close()
					case 'A':
						e.Abort()
						e.Close()
					case 'P':
						e.PauseReading(true)
						e.Close()
					default:
						return false
					}
					return true
				},
				closed: func(e *echo, _ netio.End) {
					mu.Lock()
					defer mu.Unlock()
					ended[e]++
				},
			}
			n := listen(t, cfg, h)
			for range 8 {
				dial(t, n.Addrs()[0]).Close()
			}
			waitFor(t, "the first to end", func() bool {
				mu.Lock()
				defer mu.Unlock()
				return opened == 8 && len(ended) == 8
			})
			for _, l := range h.all() { // an end is told before the descriptor is closed
				l.wait(t, func() {})
			}
			before := openFiles(t)
			a := n.Addrs()[0]
			var wg sync.WaitGroup
			for w := range 4 {
				wg.Go(func() {
					for i := w; i < each; i += 4 {
						c, err := net.DialTimeout(a.Network(), a.String(), time.Minute)
						if err != nil {
							t.Error(err)
							return
						}
						endAs(c, i)
						c.Close()
					}
				})
			}
			wg.Wait()
			waitFor(t, "the descriptors to be closed", func() bool { return openFiles(t) == before })
			waitFor(t, "all ends to be told", func() bool {
				mu.Lock()
				defer mu.Unlock()
				return len(ended) == opened
			})
			mu.Lock()
			defer mu.Unlock()
			for _, times := range ended {
				if times != 1 {
					t.Errorf("an end was told %d times", times)
				}
			}
		})
	}
}

// endAs ends a connection in the i-th of ten ways.
func endAs(c net.Conn, i int) {
	c.SetDeadline(time.Now().Add(time.Minute))
	reset := func() {
		if t, ok := c.(*net.TCPConn); ok {
			t.SetLinger(0)
		}
	}
	half := func() { c.(interface{ CloseWrite() error }).CloseWrite() }
	b := make([]byte, 8)
	switch i % 10 {
	case 0: // FIN at once
	case 1:
		reset()
	case 2: // bytes and FIN at once
		c.Write([]byte("x"))
	case 3:
		c.Write([]byte("x"))
		reset()
	case 4: // half-close, then what is owed
		c.Write([]byte("x"))
		half()
		c.Read(b)
		c.Read(b)
	case 5:
		half()
		c.Read(b)
	case 6:
		c.Write([]byte("x"))
		c.Read(b)
	case 7:
		c.Write([]byte("C"))
		c.Read(b)
	case 8:
		c.Write([]byte("A"))
		c.Read(b)
	case 9:
		c.Write([]byte("P"))
		c.Read(b)
	}
}

// A Stop while connections come leaves none open, whoever accepts.
func TestStopWhileConnectionsCome(t *testing.T) {
	before := openFiles(t)
	for _, cfg := range []Config{{}, {Single: true}, {Addrs: []string{"unix://" + t.TempDir() + "/s"}}} {
		h := &echoHost{}
		n, err := tryListen(t, cfg, h)
		if err != nil {
			t.Fatal(err)
		}
		a := n.Addrs()[0]
		var wg sync.WaitGroup
		gone := make(chan bool)
		for range 4 {
			wg.Go(func() {
				for {
					select {
					case <-gone:
						return
					default:
					}
					if c, err := net.DialTimeout(a.Network(), a.String(), 10*time.Second); err == nil {
						c.Write([]byte("x"))
						c.Close()
					}
				}
			})
		}
		waitFor(t, "connections to come", func() bool { h.mu.Lock(); defer h.mu.Unlock(); return h.next > 20 })
		halt(t, n, h)
		close(gone)
		wg.Wait()
		waitFor(t, "the descriptors to be closed", func() bool { return openFiles(t) <= before })
	}
}

// An Abort resets the peer, although the descriptor is not the one that was accepted.
func TestAbortOfOwnResets(t *testing.T) {
	h := &echoHost{received: func(e *echo, _ []byte) bool {
		if e.Conn.(*conn).hands != own {
			t.Error("the connection is not the loop's")
		}
		e.Abort()
		e.Close()
		return true
	}}
	n := listen(t, Config{Loops: 1}, h)
	c := dial(t, n.Addrs()[0])
	c.send("x")
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("got %v, want a reset", err)
	}
}

// The close of a unix peer is as its FIN: while reading is paused nothing is read and nothing told,
// and then all it has sent, and the end behind it. The loop has nothing to do with it meanwhile.
func TestAUnixCloseWaitsForAPause(t *testing.T) {
	for _, under := range []string{"the loop", "a stand-in"} {
		t.Run("under "+under, func(t *testing.T) {
			var got strings.Builder // loop goroutine, or its stand-in's
			paused, ends := make(chan *echo, 1), make(chan netio.End, 1)
			h := newStuck(func(gate chan bool) { <-gate })
			block := h.received
			h.received = func(e *echo, b []byte) bool {
				switch b[0] {
				case 'P':
					e.PauseReading(true)
					paused <- e
				case 'S':
					return block(e, b)
				default:
					got.Write(b)
				}
				return true
			}
			h.closed = func(e *echo, how netio.End) {
				if e.tag == 'P' {
					ends <- how
				}
			}
			n := listen(t, Config{Loops: 1, Addrs: []string{"unix://" + t.TempDir() + "/s"}}, &h.echoHost)
			c, busy := dial(t, n.Addrs()[0]), dial(t, n.Addrs()[0])
			c.send("P")
			e := <-paused
			l := e.l.n.(*loop)
			waitFor(t, "the reader to read", func() bool { return l.reader.Load() != nil })
			giveBack := func() {}
			if under == "a stand-in" {
				busy.send("S")
				var ok bool
				if giveBack, ok = e.l.n.StandIn((<-h.in).Conn, e.l.each()); !ok {
					t.Fatal("no stand-in")
				}
			}
			c.send("the rest")
			c.Close()
			waitFor(t, "the loop to be done with it", func() (done bool) {
				e.l.wait(t, func() { done = !polled(l, int(e.Conn.(*conn).fd)) })
				return done
			})
			if under == "a stand-in" { // it is gone from the set of the loop too
				giveBack()
				h.gate <- true
			}
			e.l.wait(t, func() {
				if got.Len() > 0 || len(ends) > 0 {
					t.Errorf("%q was read of a paused connection, and %d ends told", got.String(), len(ends))
				}
				e.PauseReading(false)
			})
			if how := <-ends; how != netio.EndFIN {
				t.Errorf("ended as %v, want a FIN", how)
			}
			e.l.wait(t, func() {
				if got.String() != "the rest" {
					t.Errorf("read %q, want the rest", got.String())
				}
			})
		})
	}
}

// polled reports whether a descriptor is in an epoll set of the loop, or of its stand-in.
func polled(l *loop, fd int) (is bool) {
	sets := []int{l.reader.Load().epfd}
	if si := l.standIn.Load(); si != nil {
		sets = append(sets, si.epfd)
	}
	eachEpoll(func(epfd int, members []int) bool {
		is = is || slices.Contains(sets, epfd) && slices.Contains(members, fd)
		return true
	})
	return is
}
