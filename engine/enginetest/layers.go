package enginetest

import (
	"crypto/tls"
	"io"
	"net"
	"sync"
	"testing/synctest"
	"time"

	"millrace/engine/internal/simnet"
)

// layers are what a client speaks around its frames.
type layers struct {
	c     *Client
	tls   *tlsClient // nil: none
	ws    *wsClient  // nil: none
	begun bool
}

// transmit sends frames' bytes through the client's layers.
func (c *Client) transmit(b []byte) {
	switch x := c.layers; {
	case x == nil:
		c.conn.Send(b)
	case x.ws != nil:
		x.ws.send(b)
	default:
		x.lower(b)
	}
}

// lower sends what the WebSocket has made of them.
func (x *layers) lower(b []byte) {
	if x.tls != nil {
		x.tls.send(b)
		return
	}
	x.c.conn.Send(b)
}

// received takes bytes of the connection apart, and returns those of frames.
func (x *layers) received(b []byte) []byte {
	if x.tls != nil && len(b) > 0 {
		b = x.tls.received(b)
	}
	if x.ws != nil {
		b = x.ws.received(b)
	}
	return b
}

// begin starts what has been dialled.
func (x *layers) begin() {
	if x.begun {
		return
	}
	x.begun = true
	if x.ws != nil {
		x.ws.ask()
	}
	if x.tls != nil {
		go x.tls.run()
		synctest.Wait()
	}
}

// ending is how a client says that nothing more comes.
type ending int

const (
	endInner  ending = iota // in the innermost layer alone
	endAll                  // in each layer, and with a FIN
	endFIN                  // with a FIN alone
	endsOfAll               // how many there are
)

// closeWrite says that nothing more comes, behind all that was sent.
func (x *layers) closeWrite(how ending) {
	lower := func() {
		switch {
		case x.tls != nil:
			x.tls.closeWrite(how == endAll || how == endInner && x.ws == nil, how != endInner)
		case how != endInner:
			x.c.conn.SendFIN()
		}
	}
	if x.ws == nil {
		lower()
		return
	}
	x.ws.behind(func() {
		if how != endFIN {
			x.ws.close()
		}
		lower()
	})
}

// rest says that nothing more comes from the server, and returns what that brings to light.
func (x *layers) rest() []byte {
	if x.end(); x.tls == nil {
		return nil
	}
	b := x.tls.received(nil)
	if x.ws != nil {
		b = x.ws.received(b)
	}
	return b
}

// end has nothing more come from the server.
func (x *layers) end() {
	if x != nil && x.tls != nil {
		x.tls.end()
	}
}

// tlsClient is the TLS of a client. A goroutine does the handshake, and reads; it stands still
// but while the world waits for it.
type tlsClient struct {
	conn *simnet.Conn
	tc   *tls.Conn

	mu      sync.Mutex
	more    sync.Cond
	in      []byte // guarded by mu; what has come
	over    bool   // guarded by mu; nothing more comes
	plain   []byte // guarded by mu; what was inside
	waiting []byte // guarded by mu; what is to be sent when the handshake is done
	closes  func() // guarded by mu; is done behind that; nil: nothing
	done    bool   // guarded by mu; the handshake is
}

func newTLSClient(conn *simnet.Conn, cfg *tls.Config) *tlsClient {
	t := &tlsClient{conn: conn}
	t.more.L = &t.mu
	t.tc = tls.Client(t, cfg)
	return t
}

func (t *tlsClient) run() {
	if t.tc.Handshake() != nil {
		t.conn.Shut() // the server has said no, or has gone
		return
	}
	t.mu.Lock()
	b, closes := t.waiting, t.closes
	t.waiting, t.closes, t.done = nil, nil, true
	t.mu.Unlock()
	if len(b) > 0 {
		_, _ = t.tc.Write(b)
	}
	if closes != nil {
		closes()
	}
	buf := make([]byte, 16<<10)
	for {
		n, err := t.tc.Read(buf)
		t.mu.Lock()
		t.plain = append(t.plain, buf[:n]...)
		t.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// send sends bytes, behind the handshake. World's goroutine.
func (t *tlsClient) send(b []byte) {
	t.mu.Lock()
	done := t.done
	if !done {
		t.waiting = append(t.waiting, b...)
	}
	t.mu.Unlock()
	if done {
		_, _ = t.tc.Write(b)
	}
}

// closeWrite sends a close_notify, or a FIN, or both, behind what is sent. World's goroutine.
func (t *tlsClient) closeWrite(notify, fin bool) {
	closes := func() {
		if notify {
			_ = t.tc.CloseWrite()
		}
		if fin {
			t.conn.SendFIN()
		}
	}
	t.mu.Lock()
	done := t.done
	if !done {
		t.closes = closes
	}
	t.mu.Unlock()
	if done {
		closes()
	}
}

// received gives bytes of the connection to TLS and returns what has come out. World's
// goroutine.
func (t *tlsClient) received(b []byte) []byte {
	t.mu.Lock()
	t.in = append(t.in, b...)
	t.more.Signal()
	t.mu.Unlock()
	synctest.Wait()
	t.mu.Lock()
	defer t.mu.Unlock()
	plain := t.plain
	t.plain = nil
	return plain
}

// end ends the goroutine.
func (t *tlsClient) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over = true
	t.more.Signal()
}

// Read is crypto/tls's view of what has come.
func (t *tlsClient) Read(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.in) == 0 && !t.over {
		t.more.Wait()
	}
	if len(t.in) == 0 {
		return 0, io.EOF
	}
	n := copy(p, t.in)
	t.in = t.in[n:]
	return n, nil
}

// Write is how crypto/tls sends records.
func (t *tlsClient) Write(p []byte) (int, error) {
	t.conn.Send(p)
	return len(p), nil
}

func (t *tlsClient) Close() error                     { return nil }
func (t *tlsClient) LocalAddr() net.Addr              { return t.conn.RemoteAddr() }
func (t *tlsClient) RemoteAddr() net.Addr             { return t.conn.LocalAddr() }
func (t *tlsClient) SetDeadline(time.Time) error      { return nil }
func (t *tlsClient) SetReadDeadline(time.Time) error  { return nil }
func (t *tlsClient) SetWriteDeadline(time.Time) error { return nil }
