package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// run connects, and reconnects. It runs on a goroutine of the client.
func (c *Client) run(first chan<- error) {
	backoff := c.cfg.MinBackoff
	told := ""        // the address of the last GOAWAY
	var kept *session // the session that the next connection resumes
	for n := 0; ; n++ {
		addr := c.cfg.Addrs[n%len(c.cfg.Addrs)]
		if told != "" {
			addr, told = told, ""
			n--
		}
		l, err := c.dial(addr, kept)
		kept = c.still(kept)
		if err == nil {
			start := time.Now()
			var ready bool
			if ready, err = c.use(l, first); !ready && c.cfg.NoReconnect {
				select {
				case first <- err:
				default:
				}
			}
			if !c.cfg.NoFollow {
				told = follow(addr, l.s.to) // no longer written
			}
			if time.Since(start) > c.cfg.MaxBackoff {
				backoff = c.cfg.MinBackoff // it was not refused immediately
			}
			if c.cfg.OnLost != nil {
				c.cfg.OnLost(err)
			}
			if c.cfg.NoReconnect {
				c.end(fmt.Errorf("%w: %w", ErrClosed, err))
			}
			kept = c.still(l.s)
		} else if c.cfg.NoReconnect && n+1 == len(c.cfg.Addrs) {
			first <- err
			return
		}
		if err != nil {
			c.mu.Lock()
			c.failed = err
			c.mu.Unlock()
		}
		if !c.pause(backoff) {
			return
		}
		backoff = min(2*backoff, c.cfg.MaxBackoff)
	}
}

// dial opens a connection and gives it a session: kept, if the server resumes it, or a new one. If
// kept has two tokens, both are tried.
func (c *Client) dial(addr string, kept *session) (*link, error) {
	for turned := false; ; {
		ctx, cancel := context.WithTimeout(c.ctx, c.cfg.DialTimeout)
		conn, err := Connect(ctx, addr, c.cfg.TLS, c.cfg.Dialer)
		if err != nil {
			cancel()
			return nil, fmt.Errorf("client: %w", err)
		}
		c.connects.Add(1)
		l := newLink(c, conn)
		stop := context.AfterFunc(ctx, func() { abort(conn) })
		err = l.open(kept)
		stop()
		cancel()
		if err == nil {
			return l, nil
		}
		abort(conn)
		switch {
		case errors.Is(err, errOlder):
		case kept.turn() && !turned:
			turned = true
		default:
			return nil, err
		}
	}
}

// use lets OnConnect, then calls, use a connection until it ends with err; ready reports whether
// calls could use it.
func (c *Client) use(l *link, first chan<- error) (ready bool, err error) {
	s := l.s
	if !s.begun {
		s.begun = true
		c.ended.Go(func() { s.open(first) })
	}
	err = l.run()
	if s.ended() == nil {
		s.resume.expiry.Reset(c.cfg.Resume)
		return true, err
	}
	<-s.opened
	return s.ready, err
}

// still returns s if another connection may resume it, else nil: then calls wait for the next
// session. s may be nil.
func (c *Client) still(s *session) *session {
	if s == nil {
		return nil
	}
	err := s.ended()
	if err == nil {
		return s
	}
	<-s.opened
	c.set(nil)
	if s.resume != nil && !errors.Is(err, ErrClosed) {
		c.broken.Add(1)
		if c.cfg.OnLost != nil {
			c.cfg.OnLost(err)
		}
	}
	return nil
}

// onSession is the context key of the session for OnConnect's calls.
type onSession struct{}

// open runs OnConnect, and then lets all calls use s.
func (s *session) open(first chan<- error) {
	defer close(s.opened)
	c := s.c
	if c.cfg.OnConnect != nil {
		ctx, cancel := context.WithTimeout(context.WithValue(c.ctx, onSession{}, s), c.cfg.DialTimeout)
		stop := make(chan struct{})
		c.ended.Go(func() {
			select {
			case <-s.gone:
				cancel()
			case <-stop:
			}
		})
		err := c.cfg.OnConnect(ctx, c)
		close(stop)
		cancel()
		if err != nil {
			s.end(s.lost(fmt.Errorf("OnConnect: %w", err)))
			return
		}
	}
	s.ready = true
	c.set(s)
	select {
	case first <- nil:
	default:
	}
}

// pause waits between half of d and d; false if the client was closed.
func (c *Client) pause(d time.Duration) bool {
	t := time.NewTimer(d/2 + rand.N(d/2+1))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-c.ctx.Done():
		return false
	}
}
