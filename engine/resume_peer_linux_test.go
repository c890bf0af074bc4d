package engine

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"millrace/codec"
)

// errCut is what a connection that cutConn has cut returns.
var errCut = errors.New("cut")

// silence is how long a connection of a resumer may bring nothing.
const silence = 30 * time.Second

// cutConn breaks when so many bytes have been written to it or read from it; -1: never.
type cutConn struct {
	net.Conn
	up, down int

	writing        sync.Mutex // held by who writes: net/http may, beside another
	mu             sync.Mutex
	wrote, gotDown int  // guarded by mu
	fired          bool // guarded by mu
}

// fire breaks the connection.
func (c *cutConn) fire() error {
	c.mu.Lock()
	c.fired = true
	c.mu.Unlock()
	c.Conn.Close()
	return errCut
}

func (c *cutConn) Write(b []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.mu.Lock()
	room := len(b) + 1
	if c.up >= 0 {
		room = c.up - c.wrote
	}
	c.mu.Unlock()
	n, err := c.Conn.Write(b[:min(room, len(b))])
	c.mu.Lock()
	c.wrote += n
	c.mu.Unlock()
	if err == nil && len(b) >= room {
		err = c.fire()
	}
	return n, err
}

func (c *cutConn) Read(b []byte) (int, error) {
	c.mu.Lock()
	if c.down >= 0 {
		b = b[:min(len(b), c.down-c.gotDown)]
	}
	c.mu.Unlock()
	if len(b) == 0 {
		return 0, c.fire()
	}
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.Conn.SetDeadline(time.Now().Add(silence))
	}
	c.mu.Lock()
	c.gotDown += n
	c.mu.Unlock()
	return n, err
}

// state is what has been written and read, and whether it was cut.
func (c *cutConn) state() (wrote, read int, fired bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wrote, c.gotDown, c.fired
}

// dialCut dials one of the server's URLs; the bytes of the socket are cut. preamble goes in
// front of all, and is not counted.
func dialCut(url, preamble string, up, down int) (net.Conn, *cutConn, error) {
	scheme, rest, _ := strings.Cut(url, "://")
	raw, err := net.DialTimeout("tcp", rest, time.Minute)
	if err != nil {
		return nil, nil, err
	}
	raw.SetDeadline(time.Now().Add(silence))
	if preamble != "" {
		io.WriteString(raw, preamble)
	}
	c := &cutConn{Conn: raw, up: up, down: down}
	switch scheme {
	case "tcp":
		return c, c, nil
	case "tls":
		return tls.Client(c, clientTLS), c, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	hc := &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return c, nil }, TLSClientConfig: clientTLS}}
	w, _, err := websocket.Dial(ctx, scheme+"://localhost/", &websocket.DialOptions{HTTPClient: hc})
	cancel()
	if err != nil {
		raw.Close()
		return nil, c, err
	}
	w.SetReadLimit(-1)
	return websocket.NetConn(context.Background(), w, websocket.MessageBinary), c, nil
}

// resumer is a client that resumes, written from the protocol alone.
type resumer struct {
	url      string
	urls     []string // where each connection goes, in turn; nil: to url
	dials    int
	preamble string // in front of each connection, such as a PROXY header
	conn     net.Conn
	cut      *cutConn
	r        *codec.Reader
	tokens   [][]byte // that may find the session, the likeliest first
	received uint64   // counted frames of the server
	told     uint64
	ackEvery uint64
	sent     [][]byte // not acknowledged
	acked    uint64
	resumed  uint64         // WELCOMEs that went on with the session
	got      []codec.Packet // counted frames
	opened   [2]int         // bytes up and down when the first WELCOME had come
}

var errLost = errors.New("the session is lost")

// connect dials, says HELLO and reads the WELCOME; what the server lacks is sent again.
func (p *resumer) connect(up, down int) (err error) {
	if len(p.urls) > 0 {
		p.url = p.urls[p.dials%len(p.urls)]
		p.dials++
	}
	if p.conn, p.cut, err = dialCut(p.url, p.preamble, up, down); err != nil {
		return err
	}
	p.r = codec.NewReader(p.conn, nil)
	hello := []byte{1, 0}
	if len(p.tokens) > 0 {
		hello = binary.BigEndian.AppendUint64(append(hello, p.tokens[0]...), p.received)
	}
	if err := p.write(SubHello, hello); err != nil {
		return err
	}
	w, err := p.r.Next()
	if err != nil {
		return err
	}
	if w.Main != 0 || w.Sub != SubWelcome || len(w.Body) != 25 {
		return fmt.Errorf("%d/%d %x in front of a WELCOME", w.Main, w.Sub, w.Body)
	}
	token, had := bytes.Clone(w.Body[1:17]), binary.BigEndian.Uint64(w.Body[17:])
	switch {
	case w.Body[0] == 1:
		if had < p.acked || had > p.acked+uint64(len(p.sent)) {
			return fmt.Errorf("the server has had %d frames of %d to %d", had, p.acked, p.acked+uint64(len(p.sent)))
		}
		p.ack(had)
		p.tokens = [][]byte{token, p.tokens[0]}
		p.told = p.received
		p.resumed++
	case len(p.tokens) > 1: // the server has not had what used the older one up
		p.tokens = p.tokens[1:]
		p.write(SubBye, nil)
		return errCut
	case len(p.tokens) == 1:
		return errLost
	default:
		p.tokens = [][]byte{token}
		p.opened[0], p.opened[1], _ = p.cut.state()
		if had != 0 {
			return fmt.Errorf("a new session has had %d frames", had)
		}
	}
	if err := p.write(SubPing, []byte("proof")); err != nil {
		return err
	}
	_, err = p.conn.Write(bytes.Join(p.sent, nil))
	return err
}

func (p *resumer) ack(n uint64) {
	if n > p.acked {
		p.sent = p.sent[n-p.acked:]
		p.acked = n
	}
}

func (p *resumer) write(sub uint16, body []byte) error {
	_, err := p.conn.Write(codec.Packet{Sub: sub, Body: body}.Append(nil))
	return err
}

// ask sends a counted frame, and keeps it until the server has it.
func (p *resumer) ask(main, sub uint16, body string) error {
	f := frame(main, sub, body)
	p.sent = append(p.sent, f)
	if p.conn == nil {
		return nil
	}
	_, err := p.conn.Write(f)
	return err
}

// next reads until a counted frame has come.
func (p *resumer) next() error {
	for {
		f, err := p.r.Next()
		if err != nil {
			return err
		}
		switch {
		case f.Main != 0 || f.Sub == SubError:
			p.got = append(p.got, f.Clone())
			if p.received++; p.received-p.told >= p.ackEvery {
				p.told = p.received
				return p.write(SubAck, binary.BigEndian.AppendUint64(nil, p.received))
			}
			return nil
		case f.Sub == SubPong && string(f.Body) == "proof":
			p.tokens = p.tokens[:1]
		case f.Sub == SubAck:
			n := binary.BigEndian.Uint64(f.Body)
			if n > p.acked+uint64(len(p.sent)) {
				return fmt.Errorf("an ACK of %d, of %d", n, p.acked+uint64(len(p.sent)))
			}
			p.ack(n)
		case f.Sub == SubWelcome:
			return errors.New("a second WELCOME")
		}
	}
}

func (p *resumer) close() {
	if p.cut != nil {
		p.cut.Conn.Close()
	}
}

// cuts says where each connection of a run breaks, one after the other.
type cuts [][2]int // bytes up and down

func (c cuts) at(i int) (up, down int) {
	if i < len(c) {
		return c[i][0], c[i][1]
	}
	return -1, -1
}

// goOn runs a peer until it has had n counted frames, with a new connection whenever one
// breaks. An EOF is a break too: a HELLO of a connection that it has given up may be read late
// and take the session over.
func (p *resumer) goOn(n int, c cuts) error {
	for try := 0; try < 50; try++ {
		up, down := c.at(try)
		err := p.connect(up, down)
		for err == nil && len(p.got) < n {
			err = p.next()
		}
		if err == nil {
			return nil
		}
		p.close()
		fired := false
		if p.cut != nil {
			_, _, fired = p.cut.state()
		}
		if errors.Is(err, errLost) || !fired && !errors.Is(err, errCut) && !errors.Is(err, io.EOF) {
			return err
		}
	}
	return errors.New("no end")
}

// resumable is a handler whose requests are counted, each by its body.
type resumable struct {
	funcs
	ran      atomic.Int64
	detached atomic.Int64
	resumed  atomic.Int64
}

func (h *resumable) OnSocketDetach(*Session) { h.detached.Add(1) }
func (h *resumable) OnSocketResume(*Session) { h.resumed.Add(1) }

// newResumable echoes 1/1, refuses 1/2, and pushes behind the answer of 1/3 and 1/4, which
// is answered later.
func newResumable() *resumable {
	h := &resumable{}
	h.read = func(s *Session, p codec.Packet) {
		h.ran.Add(1)
		switch p.Sub {
		case 1:
			s.Reply(p, p.Body)
		case 2:
			s.ReplyError(p, CodeConflict, string(p.Body))
		case 3:
			s.Reply(p, p.Body)
			s.Push(2, 4, []byte("pushed"))
		case 4:
			release := s.Hold()
			p := p.Clone()
			go func() {
				s.Submit(func() {
					s.Reply(p, p.Body)
					s.Push(2, 4, []byte("late"))
					release()
				})
			}()
		}
	}
	return h
}

func resumeConfig(urls ...string) Config {
	return Config{Addrs: urls, Timeouts: Timeouts{Resume: time.Minute}, Doors: Doors{TLS: serverTLS()}}
}

func sameFrames(a, b []codec.Packet) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].Handle() != b[i].Handle() || !bytes.Equal(a[i].Body, b[i].Body) {
			return false
		}
	}
	return true
}

func show(list []codec.Packet) string {
	var b strings.Builder
	for _, p := range list {
		fmt.Fprintf(&b, "%d/%d %.20q; ", p.Main, p.Sub, p.Body)
	}
	return b.String()
}

// onlyHello asks for the session, and goes when it has been answered.
func (p *resumer) onlyHello() {
	conn, cut, err := dialCut(p.url, p.preamble, -1, -1)
	if err != nil {
		return
	}
	defer cut.Conn.Close()
	body := binary.BigEndian.AppendUint64(append([]byte{1, 0}, p.tokens[0]...), p.received)
	conn.Write(codec.Packet{Sub: SubHello, Body: body}.Append(nil))
	codec.NewReader(conn, nil).Next()
}

func (p *resumer) count(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
