package client

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"millrace/codec"
)

// resume is what a session keeps for the connection that is to go on with it.
type resume struct {
	ring // of what the server has not had

	// tokens find the session, the likeliest first. There are two while it is not known
	// whether the server has had a frame behind the last HELLO: until then it takes the
	// older one, and then the newer one.
	tokens []codec.Token

	received uint64 // counted frames of the server that have come
	reported uint64 // of these, those that the server knows of
	bytes    int    // of the bodies of those that it doesn't
	ackDue   bool
	ackTimer *time.Timer
	expiry   *time.Timer // ends the session that no connection goes on with
}

// The server hears what has come after so many frames, bytes of bodies, or so long: a server
// sends no further than what its ring holds.
const (
	ackFrames = 64
	ackBytes  = 64 << 10
	ackAfter  = time.Second
)

// report notes that the server is told of all that has come.
func (r *resume) report() { r.reported, r.bytes, r.ackDue = r.received, 0, false }

// count counts a frame of the server; false: the session has ended, and nobody wants it.
func (s *session) count(p codec.Packet) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return false
	}
	r := s.resume
	if r.received == r.reported {
		r.ackTimer.Reset(ackAfter)
	}
	r.received++
	r.bytes += len(p.Body)
	if r.received-r.reported >= ackFrames || r.bytes >= ackBytes {
		r.ackDue = true
		s.wake.Broadcast()
	}
	return true
}

// ackNow has what is not acknowledged be so. The timer calls it.
func (s *session) ackNow() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.resume; r.received > r.reported && s.link != nil {
		r.ackDue = true
		s.wake.Broadcast()
	}
}

// acknowledged takes an ACK of the server.
func (s *session) acknowledged(p codec.Packet) {
	s.mu.Lock()
	n, ok := s.c.codec.ParseCount(p.Body)
	ok = ok && s.resume.ack(n)
	s.wake.Broadcast() // there is room
	s.mu.Unlock()
	if !ok {
		s.end(s.lost(fmt.Errorf("an ACK of what was not sent: %x", p.Body)))
	} else if s.leaving.Load() {
		s.leave()
	}
}

// confirmed notes that the server has had a frame behind the last HELLO: a PONG tells it.
func (s *session) confirmed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.resume.tokens = s.resume.tokens[:1]
}

// hello is what asks the server to go on with s, or for a new session where s is nil or over.
func (s *session) hello() codec.Hello {
	if s == nil {
		return codec.Hello{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return codec.Hello{}
	}
	return codec.Hello{Resume: true, Token: s.resume.tokens[0], Received: s.resume.received}
}

// expire ends s when no connection has gone on with it in time.
func (s *session) expire() {
	s.mu.Lock()
	away := s.link == nil
	s.mu.Unlock()
	if away {
		s.end(s.lost(fmt.Errorf("not resumed within %v", s.c.cfg.Resume)))
	}
}

// goOn gives s a new connection. Of a server that counts what it can't have had it ends s.
func (s *session) goOn(l *link, w *codec.Welcome) error {
	s.mu.Lock()
	err, acked, taken := s.err, s.resume.acked, s.taken
	if err == nil && w.Received >= acked && w.Received <= taken {
		s.attach(l, w)
		s.mu.Unlock()
		return nil
	}
	s.mu.Unlock()
	if err == nil {
		err = s.lost(fmt.Errorf("the server says that it has had %d frames, of %d to %d", w.Received, acked, taken))
		s.end(err)
	}
	return err
}

// attach has l carry s, and what the server has not had. s.mu is held.
func (s *session) attach(l *link, w *codec.Welcome) {
	r := s.resume
	r.expiry.Stop()
	r.rewind(w.Received)
	r.tokens = []codec.Token{w.Token, r.tokens[0]}
	r.report() // the HELLO did
	for h := range s.late {
		s.late[h] = time.Now() // answers were held up
	}
	s.link, l.s = l, s
	s.out = nil
	s.control(codec.Packet{Sub: subPing}) // its PONG tells that the older token is used up
	s.c.resumed.Add(1)
	s.c.resent.Add(s.taken - w.Received)
}

// errOlder: the server does not know the newer of two tokens.
var errOlder = errors.New("client: the server has not had what the last WELCOME was answered with")

// older forgets the newer of two tokens; false: there is but one.
func (s *session) older() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.resume
	if len(r.tokens) < 2 {
		return false
	}
	r.tokens = r.tokens[1:]
	return true
}

// turn has the other token, if any, tried first, after an attempt that has ended in front of a
// WELCOME: a server that is full, say, has room for a session that it knows. False: there is
// but one. s may be nil.
func (s *session) turn() bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil || len(s.resume.tokens) < 2 {
		return false
	}
	slices.Reverse(s.resume.tokens)
	return true
}

// open gives a new connection its session: kept, where the server goes on with it, or a new
// one. kept may be nil, and ends if there is a new one.
func (l *link) open(kept *session) error {
	if l.c.cfg.Resume <= 0 {
		l.s = newSession(l, nil)
		return nil
	}
	hello := kept.hello()
	w, err := l.greet(hello)
	switch {
	case err != nil:
		return err
	case w != nil && w.Resumed && !hello.Resume:
		return errors.New("client: the server goes on with a session that there has not been")
	case w != nil && w.Resumed:
		if err := kept.goOn(l, w); err != nil {
			l.refuse()
			return err
		}
		return nil
	case w != nil && hello.Resume && kept.older():
		l.refuse()
		return errOlder
	}
	if kept != nil {
		kept.end(kept.lost(fmt.Errorf("the server has begun a new one, after: %w", kept.broken())))
	}
	if w == nil {
		l.s = newSession(l, nil)
		return nil
	}
	l.s = newSession(l, &resume{tokens: []codec.Token{w.Token}})
	return nil
}

// greet says HELLO and waits for its answer: a WELCOME, or nil where there is no resume.
func (l *link) greet(h codec.Hello) (*codec.Welcome, error) {
	cd := l.c.codec
	if err := l.put(codec.Packet{Sub: subHello, Body: cd.AppendHello(nil, h)}); err != nil {
		return nil, fmt.Errorf("client: HELLO: %w", err)
	}
	for {
		p, err := l.r.Next()
		if err != nil {
			return nil, fmt.Errorf("client: no answer to HELLO: %w", err)
		}
		switch {
		case p.Main == 0 && p.Sub == subWelcome:
			w, ok := cd.ParseWelcome(p.Body)
			if !ok {
				return nil, fmt.Errorf("client: a WELCOME that can't be: %x", p.Body)
			}
			return &w, nil
		case p.Main == 0 && p.Sub == subError:
			switch e, ok := parseError(cd, p.Body); {
			case ok && e.Handle == 0:
				return nil, e // about the connection: the server closes it
			case ok && e.Handle == subHello:
				return nil, nil
			}
		case p.Main == 0 && p.Sub == subPing:
			p.Sub = subPong
			if err := l.put(p); err != nil {
				return nil, err
			}
			continue
		case p.Main == 0 && p.Sub == subGoAway:
			l.held = append(l.held[:0], p.Clone())
			continue
		case p.Main == 0:
			continue
		}
		l.held = append(l.held, p.Clone())
		return nil, nil // a server with resume would have said WELCOME first
	}
}

// put writes a frame that is not counted.
func (l *link) put(p codec.Packet) error {
	frame, err := l.c.codec.Append(nil, p)
	if err == nil {
		_, err = l.conn.Write(frame)
	}
	return err
}

// byeWait is how long a session's end may take: to write BYE, and to hear the server's end.
const byeWait = time.Second

// bye ends the session at the server too, and tells it that nothing more comes. True: its
// end of the connection comes now.
func (l *link) bye() bool {
	_ = l.conn.SetWriteDeadline(time.Now().Add(byeWait))
	if l.put(codec.Packet{Sub: subBye}) != nil {
		return false
	}
	c, ok := l.conn.(interface{ CloseWrite() error })
	return ok && c.CloseWrite() == nil
}

// refuse ends the session that the server has begun, and waits for its end of the connection,
// so that no reset destroys the BYE.
func (l *link) refuse() {
	if l.bye() {
		_ = l.conn.SetReadDeadline(time.Now().Add(byeWait))
		_, _ = io.Copy(io.Discard, l.conn)
	}
}
