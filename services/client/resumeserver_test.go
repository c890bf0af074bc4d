package client_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"millrace/codec"
	"millrace/services/client"
)

// resumer is a server with resume for what a real one can't be made to do on demand: its
// connections break at a given byte. It counts, keeps and sends again as the protocol says.
//
// 1/* are echoed, and each echo has a push 2/4 with a number behind it; 3/* are refused
// with ERROR 6; others have no answer.
type resumer struct {
	testing.TB
	door     string
	ln       net.Listener
	upgrades chan net.Conn // for the HTTP server
	over     chan struct{}
	cert     tls.Certificate
	wg       sync.WaitGroup

	mu       sync.Mutex
	cuts     []cut // of the connections, in their order
	conns    []*peerConn
	sessions []*stored
	begun    int                                // sessions
	byes     int                                // sessions that a BYE ended
	ran      []string                           // each request
	acks     []uint64                           // of clients
	on       func(*peerConn, codec.Packet) bool // false: it has been dealt with
	greet    func(*peerConn, codec.Hello) bool  // the same for a HELLO
}

// cut says after how many bytes, up from the client or down to it, a connection breaks; 0: never.
type cut struct{ up, down int }

// stored is a session.
type stored struct {
	token, next codec.Token // next is not confirmed; zero if there is none
	conn        *peerConn
	received    uint64
	told        uint64 // of received
	acked       uint64
	ring        [][]byte
	pushes      int
}

// peerConn is a connection. All but reading is guarded by the server's mu.
type peerConn struct {
	*resumer
	raw     *cutConn
	conn    net.Conn // what the frames go through
	ws      *websocket.Conn
	session *stored
	behind  int // frames behind the HELLO
}

// cutConn is a socket that breaks after so many bytes.
type cutConn struct {
	net.Conn
	mu       sync.Mutex
	cut      cut
	up, down int
}

func (c *cutConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cut.up > 0 && c.up+n >= c.cut.up {
		n, err = max(c.cut.up-c.up, 0), net.ErrClosed
		_ = c.Close()
	}
	c.up += n
	return n, err
}

func (c *cutConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cut.down == 0 || c.down+len(b) < c.cut.down {
		c.down += len(b)
		return c.Conn.Write(b)
	}
	n, _ := c.Conn.Write(b[:max(c.cut.down-c.down, 0)])
	c.down += n
	_ = c.Close()
	return n, net.ErrClosed
}

// count is how many bytes have gone either way.
func (c *cutConn) count() (up, down int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.up, c.down
}

// newResumer starts one behind a door: tcp, tls, ws or wss.
func newResumer(t testing.TB, door string, cuts ...cut) *resumer {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &resumer{TB: t, door: door, ln: ln, cuts: cuts, upgrades: make(chan net.Conn), over: make(chan struct{}), cert: certificate()}
	web := &http.Server{Handler: http.HandlerFunc(s.upgrade), ConnContext: func(ctx context.Context, c net.Conn) context.Context {
		return context.WithValue(ctx, cutKey{}, c)
	}}
	s.wg.Go(func() { _ = web.Serve(s) })
	s.wg.Go(s.accept)
	t.Cleanup(func() {
		_ = ln.Close()
		close(s.over)
		_ = web.Close()
		s.mu.Lock()
		for _, c := range s.conns {
			_ = c.raw.Close()
		}
		s.mu.Unlock()
		s.wg.Wait()
	})
	return s
}

// certificate makes one of localhost, once.
var certificate = sync.OnceValue(func() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	about := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, about, about, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
})

// cutKey finds a WebSocket's connection in the context of its request.
type cutKey struct{}

func (s *resumer) accept() {
	defer close(s.upgrades)
	for {
		raw, err := s.ln.Accept()
		if err != nil {
			return
		}
		c := &peerConn{resumer: s, raw: &cutConn{Conn: raw}}
		s.mu.Lock()
		if n := len(s.conns); n < len(s.cuts) {
			c.raw.cut = s.cuts[n]
		}
		s.conns = append(s.conns, c)
		s.mu.Unlock()
		c.conn = c.raw
		if s.door == "tls" || s.door == "wss" {
			c.conn = tls.Server(c.raw, &tls.Config{Certificates: []tls.Certificate{s.cert}})
		}
		if s.door == "ws" || s.door == "wss" {
			select {
			case s.upgrades <- webConn{c.conn, c}:
			case <-s.over:
				_ = raw.Close()
			}
			continue
		}
		s.wg.Go(c.serve)
	}
}

// webConn is a connection on its way through the HTTP server.
type webConn struct {
	net.Conn
	c *peerConn
}

// Accept, Close and Addr make s the HTTP server's listener.
func (s *resumer) Accept() (net.Conn, error) {
	c, ok := <-s.upgrades
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (s *resumer) Close() error   { return nil }
func (s *resumer) Addr() net.Addr { return s.ln.Addr() }

func (s *resumer) upgrade(w http.ResponseWriter, r *http.Request) {
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"millrace"}})
	if err != nil {
		return
	}
	c := r.Context().Value(cutKey{}).(webConn).c
	s.mu.Lock()
	c.ws = ws
	c.conn = websocket.NetConn(context.Background(), ws, websocket.MessageBinary)
	s.mu.Unlock()
	c.serve()
	_ = ws.CloseNow()
}

// dial connects a client that resumes.
func (s *resumer) dial(change func(*client.Config)) *client.Client {
	s.Helper()
	pool := x509.NewCertPool()
	leaf, _ := x509.ParseCertificate(s.cert.Certificate[0])
	pool.AddCert(leaf)
	cfg := client.Config{Addrs: []string{s.door + "://" + s.ln.Addr().String()}, MinBackoff: time.Millisecond, MaxBackoff: 5 * time.Millisecond,
		Resume: time.Minute, DialTimeout: 30 * time.Second, TLS: &tls.Config{RootCAs: pool}}
	if change != nil {
		change(&cfg)
	}
	c, err := client.Dial(soon(s), cfg)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(c.Close)
	return c
}

func (c *peerConn) serve() {
	defer c.raw.Close()
	r := codec.NewReader(c.conn, nil)
	for {
		p, err := r.Next()
		c.mu.Lock()
		s := c.session
		if err == nil {
			c.packet(p)
		} else if s != nil && s.conn == c {
			s.conn = nil
		}
		c.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// packet serves one. mu is held, as for all below.
func (c *peerConn) packet(p codec.Packet) {
	s := c.session
	if s != nil && s.conn != c {
		return // taken over
	}
	if s != nil {
		if c.behind++; c.behind == 1 && s.next != (codec.Token{}) {
			s.token, s.next = s.next, codec.Token{}
		}
	}
	if c.on != nil && !c.on(c, p) {
		return
	}
	switch p.Handle() {
	case 1:
		c.write(codec.Packet{Sub: 2, Body: p.Body})
	case 5:
		h, ok := codec.Default().ParseHello(p.Body)
		if !ok || s != nil {
			c.Errorf("a HELLO that can't be: %x", p.Body)
		} else if c.greet == nil || c.greet(c, h) {
			c.welcome(h)
		}
	case 7:
		n, ok := codec.Default().ParseCount(p.Body)
		if !ok || s == nil || n > s.acked+uint64(len(s.ring)) {
			c.Errorf("an ACK that can't be: %x", p.Body)
			return
		}
		c.acks = append(c.acks, n)
		s.drop(n)
	case 8:
		c.byes++
		c.sessions = slices.DeleteFunc(c.sessions, func(x *stored) bool { return x == s })
	default:
		if p.Main != 0 {
			c.request(p)
		}
	}
}

func (s *stored) drop(n uint64) {
	if n > s.acked {
		s.ring = s.ring[n-s.acked:]
		s.acked = n
	}
}

// welcome goes on with a session or begins one.
func (c *peerConn) welcome(h codec.Hello) {
	var fresh codec.Token
	_, _ = rand.Read(fresh[:])
	i := slices.IndexFunc(c.sessions, func(x *stored) bool { return h.Resume && x.token == h.Token })
	if i < 0 || h.Received < c.sessions[i].acked {
		c.begun++
		c.session = &stored{token: fresh, conn: c}
		c.sessions = append(c.sessions, c.session)
		c.write(codec.Packet{Sub: 6, Body: codec.Default().AppendWelcome(nil, codec.Welcome{Token: fresh})})
		return
	}
	s := c.sessions[i]
	if s.conn != nil {
		_ = s.conn.raw.Close()
	}
	s.conn, s.next, c.session = c, fresh, s
	s.drop(h.Received)
	c.write(codec.Packet{Sub: 6, Body: codec.Default().AppendWelcome(nil, codec.Welcome{Resumed: true, Token: fresh, Received: s.received})})
	for _, frame := range s.ring {
		_, _ = c.conn.Write(frame)
	}
}

func (c *peerConn) request(p codec.Packet) {
	c.ran = append(c.ran, fmt.Sprintf("%d/%d %s", p.Main, p.Sub, p.Body))
	if c.session != nil {
		c.session.received++
	}
	switch p.Main {
	case 1:
		c.counted(p)
		if c.session != nil {
			c.counted(codec.Packet{Main: 2, Sub: 4, Body: fmt.Append(nil, c.session.pushes)})
			c.session.pushes++
		}
	case 3:
		c.counted(refusal(6, p.Handle(), "refused"))
	}
	if s := c.session; s != nil && s.received-s.told >= 2 {
		c.ack()
	}
}

// refusal is an ERROR.
func refusal(code uint16, about uint32, text string) codec.Packet {
	b := binary.BigEndian.AppendUint16(nil, code)
	return codec.Packet{Sub: 3, Body: append(binary.BigEndian.AppendUint32(b, about), text...)}
}

func (c *peerConn) ack() {
	c.session.told = c.session.received
	c.write(codec.Packet{Sub: 7, Body: codec.Default().AppendCount(nil, c.session.received)})
}

// counted sends a frame that is kept until the client has had it.
func (c *peerConn) counted(p codec.Packet) {
	if s := c.session; s != nil {
		s.ring = append(s.ring, p.Append(nil))
	}
	c.write(p)
}

func (c *peerConn) write(p codec.Packet) {
	if c.session == nil || c.session.conn == c {
		_, _ = c.conn.Write(p.Append(nil))
	}
}

// look calls fn with the server's state until it returns true.
func (s *resumer) look(what string, fn func() bool) {
	s.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		s.mu.Lock()
		ok := fn()
		s.mu.Unlock()
		if ok {
			return
		}
		if time.Now().After(end) {
			s.Fatalf("%s: not within a minute", what)
		}
	}
}

// breakAll ends every connection.
func (s *resumer) breakAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		_ = c.raw.Close()
	}
}
