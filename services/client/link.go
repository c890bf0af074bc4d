package client

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"millrace/codec"
)

// The system frames: Main 0.
const (
	subPing    = 1
	subPong    = 2
	subError   = 3
	subGoAway  = 4
	subHello   = 5
	subWelcome = 6
	subAck     = 7
	subBye     = 8
)

// link is one connection.
type link struct {
	c     *Client
	s     *session // its session; set before run
	conn  net.Conn
	r     *codec.Reader
	held  []codec.Packet // received before the answer to HELLO
	born  time.Time
	heard atomic.Int64  // time of the last input, in nanoseconds since born
	gone  chan struct{} // closed when it has ended
	err   error         // guarded by s.mu; why it has ended
}

func newLink(c *Client, conn net.Conn) *link {
	return &link{c: c, conn: conn, r: codec.NewReader(conn, c.codec), born: time.Now(), gone: make(chan struct{})}
}

// run serves the connection until it ends.
func (l *link) run() error {
	var wg sync.WaitGroup
	wg.Go(l.write)
	wg.Go(l.beat)
	l.read()
	wg.Wait()
	return l.err // no longer written
}

// close ends the connection, once, and its session if that can't be resumed.
func (l *link) close(err error) {
	s := l.s
	s.mu.Lock()
	if l.err != nil {
		s.mu.Unlock()
		return
	}
	if s.err != nil {
		err = s.err
	}
	l.err, s.broke, s.link = err, err, nil
	close(l.gone)
	s.wake.Broadcast()
	s.mu.Unlock()
	if errors.Is(err, ErrClosed) {
		_ = l.conn.Close()
	} else {
		abort(l.conn)
	}
	switch {
	case s.resume == nil:
		s.end(err)
	case s.leaving.Load():
		s.end(s.lost(fmt.Errorf("%w: %w", ErrGoAway, err))) // a server that leaves keeps no sessions
	}
}

// part ends the connection of a session that has ended. The writer sends BYE if the server would
// otherwise keep the session.
func (l *link) part(err error) {
	if l.s.resume == nil {
		l.close(err)
		return
	}
	_ = l.conn.SetWriteDeadline(time.Now().Add(byeWait)) // for the write in progress
	time.AfterFunc(byeWait, func() { l.close(err) })
}

// write sends everything that is queued.
func (l *link) write() {
	s := l.s
	var spare []byte
	for {
		s.mu.Lock()
		for !s.due() && s.err == nil && l.err == nil {
			s.wake.Wait()
		}
		if over := s.err; over != nil || l.err != nil {
			bye := l.err == nil && s.resume != nil
			s.mu.Unlock()
			if bye && !l.bye() {
				l.close(over)
			}
			return
		}
		b, kept := s.take(spare)
		s.mu.Unlock()
		for _, b := range [][]byte{b, kept} {
			if len(b) == 0 {
				continue
			}
			if _, err := l.conn.Write(b); err != nil {
				l.close(fmt.Errorf("%w: %w", ErrLost, err))
				return
			}
		}
		if spare = b; cap(spare) > 64<<10 {
			spare = nil
		}
		if len(kept) > 0 {
			s.mu.Lock()
			s.resume.busy = false
			s.mu.Unlock()
		}
		if s.parts() {
			s.leave()
		}
	}
}

// read processes what is received.
func (l *link) read() {
	for _, p := range l.held {
		l.frame(p)
	}
	l.held = nil
	for {
		p, err := l.r.Next()
		if err != nil {
			if l.s.resume != nil && websocket.CloseStatus(err) == codeTakenOver {
				l.s.end(l.s.lost(ErrTakenOver))
			}
			l.close(fmt.Errorf("%w: %w", ErrLost, err))
			return
		}
		l.heard.Store(int64(time.Since(l.born)))
		l.frame(p)
	}
}

// codeTakenOver is the WebSocket close code of a connection whose session was resumed by another
// one.
const codeTakenOver = 4000

func (l *link) frame(p codec.Packet) {
	switch counted := l.s.resume != nil && (p.Main != 0 || p.Sub == subError); {
	case counted && !l.s.count(p):
	case p.Main == 0:
		l.system(p)
	default:
		l.packet(p)
	}
}

func (l *link) system(p codec.Packet) {
	s := l.s
	switch p.Sub {
	case subPing:
		s.mu.Lock()
		if len(s.out) < 2*l.c.cfg.MaxUnsent { // otherwise output proves that the client is alive
			s.control(codec.Packet{Sub: subPong, Seq: p.Seq, Body: p.Body})
		}
		s.mu.Unlock()
	case subError:
		l.error(p)
	case subGoAway:
		s.goAway(string(p.Body[min(4, len(p.Body)):]))
	}
	if s.resume == nil {
		return
	}
	switch p.Sub {
	case subPong:
		s.confirmed()
	case subAck:
		s.acknowledged(p)
	case subWelcome:
		s.end(s.lost(errors.New("a second WELCOME")))
	}
}

// beat sends a PING when the server has been silent for a Heartbeat, and closes the connection when
// it stays silent for another.
func (l *link) beat() {
	every, pings := l.c.cfg.Heartbeat, true
	if every < 0 {
		every, pings = l.c.cfg.MaxLate, false
	}
	t := time.NewTicker(max(min(every, l.c.cfg.MaxLate)/4, time.Millisecond))
	defer t.Stop()
	var pinged time.Time // zero if the server has sent something since
	for {
		select {
		case <-l.gone:
			return
		case <-t.C:
		}
		if l.s.overdue() {
			l.s.end(l.s.lost(fmt.Errorf("an answer has not arrived within %v after its call was abandoned", l.c.cfg.MaxLate)))
			return
		}
		if !pings {
			continue
		}
		switch silent := time.Since(l.born) - time.Duration(l.heard.Load()); {
		case silent < every:
			pinged = time.Time{}
		case !pinged.IsZero() && time.Since(pinged) >= every:
			l.close(fmt.Errorf("%w: silent for %v", ErrLost, silent))
			return
		case pinged.IsZero():
			pinged = time.Now()
			l.s.mu.Lock()
			l.s.control(codec.Packet{Sub: subPing})
			l.s.mu.Unlock()
		}
	}
}
