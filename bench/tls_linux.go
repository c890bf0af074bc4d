package bench

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"time"
)

// tlsClient is crypto/tls over a net.Conn in memory, for one goroutine. The handshake is a
// coroutine that is suspended while it waits for the server; after it, a Read without data returns
// errNothing, a temporary error for crypto/tls.
type tlsClient struct {
	tc      *tls.Conn
	in      []byte // what came and was not read
	wire    *[]byte
	shaking bool
	next    func() (struct{}, bool) // goes on with the handshake
	stop    func()
	yield   func(struct{}) bool
	err     error // of the handshake
}

// errNothing is a temporary net.Error.
type errNothing struct{}

func (errNothing) Error() string   { return "bench: nothing to read now" }
func (errNothing) Timeout() bool   { return true }
func (errNothing) Temporary() bool { return true }

func newTLSClient(cfg *tls.Config, wire *[]byte) *tlsClient {
	t := &tlsClient{wire: wire, shaking: true}
	t.tc = tls.Client(t, cfg)
	t.next, t.stop = iter.Pull(func(yield func(struct{}) bool) {
		t.yield = yield
		t.err = t.tc.Handshake()
	})
	return t
}

// step continues the handshake until it is done or needs more input.
func (t *tlsClient) step() {
	_, more := t.next()
	t.shaking = more
}

// end aborts an unfinished handshake.
func (t *tlsClient) end() { t.stop() }

// read decrypts all of in. It returns io.EOF after a close_notify.
func (t *tlsClient) read(b []byte) (n int, err error) {
	for n < len(b) {
		m, err := t.tc.Read(b[n:])
		n += m
		switch {
		case errors.Is(err, errNothing{}):
			return n, nil
		case errors.Is(err, io.EOF):
			return n, io.EOF
		case err != nil:
			return n, fmt.Errorf("bench: TLS: %w", err)
		}
	}
	return n, errors.New("bench: more plain text than fits the buffer")
}

// write encrypts b to the wire.
func (t *tlsClient) write(b []byte) error {
	if t.shaking || len(b) == 0 {
		return nil
	}
	_, err := t.tc.Write(b)
	return err
}

// bye sends the close_notify.
func (t *tlsClient) bye() {
	if !t.shaking {
		_ = t.tc.CloseWrite()
	}
}

// Read, Write and the rest implement net.Conn for crypto/tls.
func (t *tlsClient) Read(p []byte) (int, error) {
	for len(t.in) == 0 && t.shaking {
		if !t.yield(struct{}{}) {
			return 0, net.ErrClosed
		}
	}
	if len(t.in) == 0 {
		return 0, errNothing{}
	}
	n := copy(p, t.in)
	t.in = t.in[n:]
	return n, nil
}

func (t *tlsClient) Write(p []byte) (int, error) {
	*t.wire = append(*t.wire, p...)
	return len(p), nil
}

func (t *tlsClient) Close() error                     { return nil }
func (t *tlsClient) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (t *tlsClient) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (t *tlsClient) SetDeadline(time.Time) error      { return nil }
func (t *tlsClient) SetReadDeadline(time.Time) error  { return nil }
func (t *tlsClient) SetWriteDeadline(time.Time) error { return nil }

// clientHello returns the first message of a handshake. It may be sent repeatedly.
func clientHello(cfg *tls.Config) []byte {
	var wire []byte
	t := newTLSClient(cfg, &wire)
	t.step()
	t.end()
	return wire
}
