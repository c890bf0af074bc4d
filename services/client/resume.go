package client

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"millrace/codec"
)

// resume is what a session keeps for the next connection.
type resume struct {
	ring // frames that the server has not acknowledged

	// tokens identify the session, the most likely one first. There are two while it is unknown
	// whether the server has received a frame after the last HELLO: until then it accepts the older
	// one, afterwards the newer one.
	tokens []codec.Token

	received uint64 // counted frames received from the server
	reported uint64 // those already acknowledged
	bytes    int    // bytes of the bodies of those not acknowledged
	ackDue   bool
	ackTimer *time.Timer
	expiry   *time.Timer // ends the session if it is not resumed
}

// Limits after which received frames are acknowledged: number of frames, bytes of bodies, time. A
// server stops sending when its ring is full.
const (
	ackFrames = 64
	ackBytes  = 64 << 10
	ackAfter  = time.Second
)

// report records that an acknowledgement of everything received is being sent.
func (r *resume) report() { r.reported, r.bytes, r.ackDue = r.received, 0, false }

// count counts a frame of the server; false if the session has ended and the frame is to be
// discarded.
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

// ackNow sends an acknowledgement. The timer calls it.
func (s *session) ackNow() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.resume; r.received > r.reported && s.link != nil {
		r.ackDue = true
		s.wake.Broadcast()
	}
}

// acknowledged processes an ACK of the server.
func (s *session) acknowledged(p codec.Packet) {
	s.mu.Lock()
	n, ok := s.c.codec.ParseCount(p.Body)
	ok = ok && s.resume.ack(n)
	s.wake.Broadcast() // there may be room
	s.mu.Unlock()
	if !ok {
		s.end(s.lost(fmt.Errorf("an ACK of frames that were not sent: %x", p.Body)))
	} else if s.parts() {
		s.leave()
	}
}

// confirmed records that the server has received a frame after the last HELLO: a PONG proves it.
func (s *session) confirmed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.resume.tokens = s.resume.tokens[:1]
}

// hello returns the HELLO that resumes s, or begins a new session if s is nil or has ended.
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

// expire ends s if it was not resumed in time.
func (s *session) expire() {
	s.mu.Lock()
	away := s.link == nil
	s.mu.Unlock()
	if away {
		s.end(s.lost(fmt.Errorf("not resumed within %v", s.c.cfg.Resume)))
	}
}

// goOn attaches s to a new connection. If the server's count is impossible, s ends.
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
		err = s.lost(fmt.Errorf("the server reports %d received frames, possible are %d to %d", w.Received, acked, taken))
		s.end(err)
	}
	return err
}

// attach makes l the connection of s, and queues what the server has not received. s.mu is held.
func (s *session) attach(l *link, w *codec.Welcome) {
	r := s.resume
	r.expiry.Stop()
	r.rewind(w.Received)
	r.tokens = []codec.Token{w.Token, r.tokens[0]}
	r.report() // the HELLO contained the count
	for h := range s.late {
		s.late[h] = time.Now() // answers were delayed
	}
	s.link, l.s, s.to = l, s, ""
	s.moving.Store(false)
	s.out = nil
	s.control(codec.Packet{Sub: subPing}) // its PONG proves that the older token is invalid now
	s.c.resumed.Add(1)
	s.c.resent.Add(s.taken - w.Received)
}

// errOlder: the server does not accept the newer of two tokens.
var errOlder = errors.New("client: the server has not received the answer to its last WELCOME")

// older drops the newer of two tokens; false if there is only one.
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

// turn makes the other token, if any, the first to try, after an attempt that ended before a
// WELCOME: for example, a full server still accepts a session that it knows. It returns false if
// there is only one. s may be nil.
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

// open gives a new connection its session: kept, if the server resumes it, or a new one. kept may
// be nil, and ends if there is a new one.
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
		return errors.New("client: the server resumes a session that did not exist")
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
		kept.end(kept.lost(fmt.Errorf("the server has begun a new session, after: %w", kept.broken())))
	}
	if w == nil {
		l.s = newSession(l, nil)
		return nil
	}
	l.s = newSession(l, &resume{tokens: []codec.Token{w.Token}})
	return nil
}

// greet sends HELLO and waits for the answer: a WELCOME, or nil if the server does not support
// resume.
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
				return nil, fmt.Errorf("client: an invalid WELCOME: %x", p.Body)
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
		return nil, nil // a server with resume would have sent WELCOME first
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

// byeWait is how long ending a session may take: to write BYE, and to wait for the server to close.
const byeWait = time.Second

// bye ends the session at the server too, and half-closes the connection. It returns true if the
// server is expected to close it.
func (l *link) bye() bool {
	_ = l.conn.SetWriteDeadline(time.Now().Add(byeWait))
	if l.put(codec.Packet{Sub: subBye}) != nil {
		return false
	}
	c, ok := l.conn.(interface{ CloseWrite() error })
	return ok && c.CloseWrite() == nil
}

// refuse ends the session that the server has begun, and waits for it to close the connection, so
// that no reset destroys the BYE.
func (l *link) refuse() {
	if l.bye() {
		_ = l.conn.SetReadDeadline(time.Now().Add(byeWait))
		_, _ = io.Copy(io.Discard, l.conn)
	}
}
