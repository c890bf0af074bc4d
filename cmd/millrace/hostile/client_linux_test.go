package hostile

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The clients write and read frames by hand, from the wire contract and not from package
// codec: what both sides get wrong alike would pass.

// frame is one frame.
type frame struct {
	main, sub uint16
	body      string
}

func (f frame) String() string { return fmt.Sprintf("%d/%d %.100q", f.main, f.sub, f.body) }

// is says whether f has this handle.
func (f frame) is(main, sub uint16) bool { return f.main == main && f.sub == sub }

// errorCode returns the code of an ERROR and the handle that it is about; 0 for others.
func (f frame) errorCode() (code int, handle uint32) {
	if !f.is(0, 3) || len(f.body) < 6 {
		return 0, 0
	}
	return int(binary.BigEndian.Uint16([]byte(f.body))), binary.BigEndian.Uint32([]byte(f.body[2:]))
}

// wire appends a frame's bytes to b.
func wire(b []byte, main, sub uint16, body string) []byte {
	b = append(header(b, uint32(4+len(body))), byte(main>>8), byte(main), byte(sub>>8), byte(sub))
	return append(b, body...)
}

// header appends a length field.
func header(b []byte, n uint32) []byte { return binary.BigEndian.AppendUint32(b, n) }

// repeat is n times the same frame.
func repeat(n int, main, sub uint16, body string) []byte {
	return []byte(strings.Repeat(string(wire(nil, main, sub, body)), n))
}

// client is a connection to a server. One goroutine may read and one may write.
type client struct {
	testing.TB
	net.Conn
	r *bufio.Reader
}

// dialer connects with a receive buffer so small that the server feels at once that its
// client doesn't read.
func dialer(receive int) *net.Dialer {
	return &net.Dialer{Timeout: time.Minute, Control: func(_, _ string, c syscall.RawConn) error {
		if receive == 0 {
			return nil
		}
		return c.Control(func(fd uintptr) {
			syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, receive)
		})
	}}
}

// try connects, with a receive buffer of so many bytes or the system's for 0.
func (s *server) try(receive int) (*client, error) {
	network, address := s.addr(0)
	c, err := dialer(receive).DialContext(context.Background(), network, address)
	if err != nil {
		return nil, err
	}
	return &client{s.TB, c, newReader(c)}, nil
}

// dial is try for the test's own goroutine; the connection is closed when the test ends.
func (s *server) dial() *client { s.Helper(); return s.dialSmall(0) }

func (s *server) dialSmall(receive int) *client {
	s.Helper()
	c, err := s.try(receive)
	if err != nil {
		s.Fatalf("dial: %v", err)
	}
	s.Cleanup(func() { c.Close() })
	return c
}

// dialMany connects n clients that read little.
func (s *server) dialMany(n int) []*client {
	s.Helper()
	all := make([]*client, n)
	for i := range all {
		all[i] = s.dialSmall(4 * kib)
	}
	return all
}

// send writes one frame, with 10 s for it.
func (c *client) send(main, sub uint16, body string) error {
	return c.put(wire(nil, main, sub, body), 10*time.Second)
}

// put writes bytes within the time given.
func (c *client) put(b []byte, within time.Duration) error {
	c.SetWriteDeadline(time.Now().Add(within))
	_, err := c.Write(b)
	return err
}

// next reads one frame, or the error that ends the stream. A deadline that passes in
// front of a frame loses nothing; one inside a frame ends the stream.
func (c *client) next(within time.Duration) (frame, error) {
	c.SetReadDeadline(time.Now().Add(within))
	head, err := c.r.Peek(8)
	if err != nil {
		if len(head) > 0 && errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return frame{}, err
	}
	n := binary.BigEndian.Uint32(head)
	if n < 4 || n > 1<<24 {
		return frame{}, fmt.Errorf("a frame of length %d", n)
	}
	f := frame{main: binary.BigEndian.Uint16(head[4:]), sub: binary.BigEndian.Uint16(head[6:])}
	c.r.Discard(8)
	body := make([]byte, n-4)
	if _, err := io.ReadFull(c.r, body); err != nil {
		return frame{}, fmt.Errorf("inside a frame: %w", err)
	}
	f.body = string(body)
	return f, nil
}

// call sends a request and returns the first frame that answers it: one of its handle or
// an ERROR. Others are skipped.
func (c *client) call(within time.Duration, main, sub uint16, body string) (frame, error) {
	if err := c.put(wire(nil, main, sub, body), within); err != nil {
		return frame{}, err
	}
	for end := time.Now().Add(within); ; {
		f, err := c.next(time.Until(end))
		if err != nil || f.is(main, sub) || f.is(0, 3) {
			return f, err
		}
	}
}

// want calls and fails unless the answer has the request's handle and contains text.
func (c *client) want(main, sub uint16, body, text string) {
	c.Helper()
	f, err := c.call(time.Minute, main, sub, body)
	if err != nil || !f.is(main, sub) || !strings.Contains(f.body, text) {
		c.Fatalf("%d/%d %.80q: got %v, %v, want %.80q", main, sub, body, f, err, text)
	}
}

// rest reads until the stream ends, or nothing comes for the time given.
func (c *client) rest(quiet time.Duration) (all []frame, err error) {
	for {
		f, err := c.next(quiet)
		if err != nil {
			return all, err
		}
		all = append(all, f)
	}
}

// reset closes with a reset instead of a FIN.
func (c *client) reset() {
	if t, ok := c.Conn.(*net.TCPConn); ok {
		t.SetLinger(0)
	}
	c.Close()
}

// quiet returns for how long the kernel has received no bytes, however late they are read.
func (c *client) quiet() time.Duration {
	c.Helper()
	raw, err := c.Conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		c.Error(err)
		return 0
	}
	var info *unix.TCPInfo
	raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
	if err != nil {
		c.Error(err)
		return 0
	}
	return time.Duration(info.Last_data_recv) * time.Millisecond
}

// fin says that there are no more requests.
func (c *client) fin() {
	if h, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		h.CloseWrite()
	}
}

// timedOut says whether err is a deadline that passed: the stream is still open.
func timedOut(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

func newReader(r io.Reader) *bufio.Reader { return bufio.NewReaderSize(r, 32*kib) }
