package heldtest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"testing"
	"time"
)

// slack is what the heap may be off by for reasons of its own, as tables that grow.
const slack = 128 * kib

// gathers is what the loops' own buffers take, in which they put together what is written
// at once: it is theirs for good, and not counted.
const gathers = 2 * 320 * kib

// frame appends a frame to b, written by hand from the wire contract.
func frame(b []byte, sub uint16, size int) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(4+size))
	b = binary.BigEndian.AppendUint16(b, 1)
	b = binary.BigEndian.AppendUint16(b, sub)
	return append(b, make([]byte, size)...)
}

// dial connects n clients that have little room for what they don't read, and waits until
// the server has them.
func (c *child) dial(n int) []net.Conn {
	c.Helper()
	all := make([]net.Conn, n)
	for i := range all {
		conn, err := net.Dial("tcp", c.addr)
		if err != nil {
			c.Fatal(err)
		}
		c.Cleanup(func() { conn.Close() })
		conn.(*net.TCPConn).SetReadBuffer(4 * kib)
		conn.SetDeadline(time.Now().Add(30 * time.Second))
		all[i] = conn
		c.call(conn, frame(nil, subEcho, 0))
	}
	return all
}

// call writes a request, and reads an answer without a body.
func (c *child) call(conn net.Conn, request []byte) {
	c.Helper()
	c.put(conn, request)
	if _, err := io.ReadFull(conn, make([]byte, 8)); err != nil {
		c.Fatal(err)
	}
}

func (c *child) put(conn net.Conn, b []byte) {
	c.Helper()
	if _, err := conn.Write(b); err != nil {
		c.Fatal(err)
	}
}

// agree checks that what the server says it holds is what its heap has grown by since.
func (c *child) agree(heap, counted, least int) {
	c.Helper()
	h, n := c.memory()
	h, n = h-heap, n-counted
	c.Logf("counted %.2f MiB, heap %.2f MiB: %.2f", float64(n)/mib, float64(h)/mib, float64(n)/float64(h))
	switch {
	case n < least:
		c.Errorf("%d bytes are held; the test wants %d at least to say anything", n, least)
	case n > h*3/2+slack:
		c.Errorf("%d bytes are counted, and the heap has grown by %d: more than 1.5 times that", n, h)
	case h > n*3/2+slack:
		c.Errorf("%d bytes are counted, and the heap has grown by %d: 1.5 times that or more", n, h)
	}
}

var sizes = []int{0, 8, 64, 4 * kib, 60 * kib}

// Requests that wait behind a handler cost what they are counted for, however they come.
func TestRequestsThatWaitAreCountedAsMemory(t *testing.T) {
	const clients = 40
	for _, size := range sizes {
		one := frame(nil, subSink, size)
		for _, how := range []struct {
			name  string
			bytes int // that each client sends
			piece int // that it writes at once
		}{
			{"many", 300 * kib, 32 * max(len(one), kib)},
			{"one", min(300*kib, 1000*len(one)), len(one)},
			{"pieces", min(300*kib, 500*len(one)), (len(one) + 1) / 2},
		} {
			t.Run(fmt.Sprintf("size=%d,by=%s", size, how.name), func(t *testing.T) {
				t.Parallel()
				c := start(t)
				all := c.dial(clients)
				heap, counted := c.memory()
				for _, conn := range all {
					c.put(conn, frame(nil, subBlock, 0))
				}
				each := bytes.Repeat(one, how.bytes/len(one))
				for len(each) > 0 {
					n := min(how.piece, len(each))
					for _, conn := range all {
						c.put(conn, each[:n])
					}
					each = each[n:]
				}
				c.agree(heap, counted, clients*min(how.bytes, 4*kib)/2)
			})
		}
	}
}

// The beginning of a frame costs what it is counted for, in one piece or many.
func TestPartialFramesAreCountedAsMemory(t *testing.T) {
	const clients = 400
	for _, size := range sizes {
		for _, pieces := range []int{1, 7} {
			t.Run(fmt.Sprintf("part=%d,pieces=%d", size, pieces), func(t *testing.T) {
				t.Parallel()
				c := start(t)
				all := c.dial(clients)
				heap, counted := c.memory()
				part := frame(nil, subSink, 64000)[:8+size]
				for at, n := 0, (len(part)+pieces-1)/pieces; at < len(part); at += n {
					for _, conn := range all {
						c.put(conn, part[at:min(at+n, len(part))])
					}
				}
				c.agree(heap, counted, clients*len(part))
			})
		}
	}
}

// Answers that nobody reads cost what they are counted for.
func TestUnreadAnswersAreCountedAsMemory(t *testing.T) {
	const clients = 40
	for _, size := range sizes {
		for _, each := range []int{300 * kib, 4 * mib} {
			t.Run(fmt.Sprintf("size=%d,each=%d", size, each), func(t *testing.T) {
				t.Parallel()
				c := start(t)
				all := c.dial(clients)
				heap, counted := c.memory()
				one := frame(nil, subEcho, size)
				flood := bytes.Repeat(one, max(1, 32*kib/len(one)))
				for n := 0; n < each; n += len(flood) {
					for _, conn := range all {
						conn.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
						conn.Write(flood) // when it stops taking, enough is held
					}
				}
				c.agree(heap, counted, clients*100*kib)
			})
		}
	}
}

// What is sent unasked costs what it is counted for: pushes each by itself, what many are
// sent only once for each loop or for all.
func TestUnreadPushesAreCountedAsMemory(t *testing.T) {
	const clients = 100
	const each = 600 * kib // of bytes to every client: less than a slow consumer is closed for
	for _, size := range sizes {
		n := max(each/(8+size), 1)
		t.Run(fmt.Sprintf("broadcast,size=%d", size), func(t *testing.T) {
			t.Parallel()
			c := start(t)
			c.dial(clients)
			heap, counted := c.memory()
			c.do("broadcast %d %d", n, size)
			c.agree(heap, counted, each/2)
			if h, _ := c.memory(); h-heap > 6*each+slack {
				t.Errorf("a broadcast is held more than once for each loop: %d bytes for %d", h-heap, each)
			}
		})
		t.Run(fmt.Sprintf("push,size=%d", size), func(t *testing.T) {
			t.Parallel()
			c := start(t)
			c.dial(clients)
			heap, counted := c.memory()
			c.do("push %d %d", n, size)
			c.agree(heap, counted, clients*each/2)
		})
		t.Run(fmt.Sprintf("group,size=%d", size), func(t *testing.T) {
			t.Parallel()
			c := start(t)
			for _, conn := range c.dial(clients) {
				c.call(conn, append(frame(nil, subJoin, 0)[:3], append([]byte{5, 0, 1, 0, subJoin}, 'g')...))
			}
			heap, counted := c.memory()
			heap += gathers
			n := min(n, 10_000)
			c.do("group %d %d g", n, size)
			c.agree(heap, counted, n*size/2)
			if h, _ := c.memory(); h-heap > 3*n*(size+640)+clients*n*48+slack {
				t.Errorf("the frame of a group send is held more than once: %d bytes for %d sends of %d", h-heap, n, size)
			}
		})
		t.Run(fmt.Sprintf("alternating,size=%d", size), func(t *testing.T) {
			t.Parallel()
			c := start(t)
			c.dial(clients)
			heap, counted := c.memory()
			heap += gathers
			rounds := min(20, each/2/(8+size))
			for range rounds {
				c.do("push %d %d", max(n/100, 1), size)
				c.do("broadcast %d %d", max(n/100, 1), size)
			}
			c.agree(heap, counted, clients*each/20)
		})
	}
}

// Functions that wait cost what they are counted for.
func TestTasksThatWaitAreCountedAsMemory(t *testing.T) {
	t.Parallel()
	c := start(t)
	all := c.dial(40)
	heap, counted := c.memory()
	for _, conn := range all {
		c.put(conn, frame(nil, subBlock, 0))
	}
	c.counted()
	c.do("submit 5000")
	c.agree(heap, counted, 200_000*32)
}

// Answers that are owed cost about what they are counted for, with what their handler
// keeps of the request, and nothing once they are given.
func TestAnswersOwedAreCountedAsMemory(t *testing.T) {
	t.Parallel()
	c := start(t)
	all := c.dial(40)
	heap, counted := c.memory()
	for _, conn := range all {
		c.put(conn, bytes.Repeat(frame(nil, subOwe, keptOfARequest), 300))
	}
	c.agree(heap, counted, 40*300*512)
	c.do("release")
	if h, n := c.memory(); n-counted > 64*kib || h-heap > mib {
		t.Errorf("when all are given, %d bytes are counted and the heap is %d larger than before", n-counted, h-heap)
	}
}

// A client that reads as fast as it can is not closed for a burst of broadcasts within
// MaxOutbox, although more than MaxOutbound of it is unread for a moment.
func TestReaderOutlivesABurstOfBroadcasts(t *testing.T) {
	t.Parallel()
	const sends, size = 200, 60 * kib // 12 MiB of 16
	c := start(t)
	conn, err := net.Dial("tcp", c.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	c.call(conn, frame(nil, subEcho, 0))
	got := make(chan error, 1)
	go func() {
		_, err := io.CopyN(io.Discard, conn, sends*(8+size))
		got <- err
	}()
	c.do("broadcast %d %d", sends, size)
	if err := <-got; err != nil {
		t.Errorf("one who reads is closed: %v", err)
	}
}
