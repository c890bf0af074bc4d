package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"millrace/codec"
)

// Client is a client of a server that reconnects when its connection is lost.
type Client struct {
	cfg   Config
	codec *codec.Codec
	slots chan struct{} // a semaphore for calls in progress

	ctx    context.Context // cancelled by Close
	cancel context.CancelFunc
	ended  sync.WaitGroup

	mu      sync.Mutex
	session *session      // guarded by mu; the session that calls may use; nil while there is none
	change  chan struct{} // guarded by mu; closed when session changes
	ons     map[uint32]func(codec.Packet)
	failed  error // guarded by mu; the error of the last attempt to connect
	err     error // guarded by mu; why the client has ended

	unexpected, connects    atomic.Uint64
	resumed, resent, broken atomic.Uint64
}

// Handle returns the handle of main and sub.
func Handle(main, sub uint16) uint32 { return uint32(main)<<16 | uint32(sub) }

// Dial creates a client and waits for its first connection, until ctx ends: then the error is that
// of ctx and of the last attempt. With NoReconnect it tries each address once.
func Dial(ctx context.Context, cfg Config) (*Client, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	cd, err := codec.New(cfg.Layout, cfg.MaxFrame)
	if cfg.Framer != nil {
		cd, err = codec.Framed(cfg.Framer, cfg.MaxFrame)
	}
	if err != nil {
		return nil, err
	}
	c := &Client{cfg: cfg, codec: cd, slots: make(chan struct{}, cfg.MaxCalls),
		change: make(chan struct{}), ons: map[uint32]func(codec.Packet){}}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	first := make(chan error, 1)
	c.ended.Go(func() { c.run(first) })
	select {
	case err = <-first:
	case <-ctx.Done():
		c.mu.Lock()
		if err = ctx.Err(); c.failed != nil {
			err = fmt.Errorf("%w; the last attempt: %w", err, c.failed)
		}
		c.mu.Unlock()
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Close ends the client. Calls end with ErrClosed. With Resume it also ends the session at the
// server, which may take a second. It may be called twice.
func (c *Client) Close() {
	c.end(ErrClosed)
	c.ended.Wait()
}

// end ends the client for good.
func (c *Client) end(err error) {
	c.mu.Lock()
	if c.err == nil {
		c.err = err
		close(c.change)
	}
	c.mu.Unlock()
	c.cancel() // closes the connection
}

// On registers fn for every packet of the handle, which then can't be used for calls. The body is
// valid until fn returns. A nil fn removes the function.
func (c *Client) On(handle uint32, fn func(codec.Packet)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if fn == nil {
		delete(c.ons, handle)
		return
	}
	c.ons[handle] = fn
}

// hears reports whether the handle has a function registered with On.
func (c *Client) hears(handle uint32) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ons[handle] != nil
}

// Connected reports whether there is a connection at present.
func (c *Client) Connected() bool {
	c.mu.Lock()
	s := c.session
	c.mu.Unlock()
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.link != nil
}

// Stats returns the number of connections made, and of packets without a receiver.
func (c *Client) Stats() (connects, unexpected uint64) {
	return c.connects.Load(), c.unexpected.Load()
}

// ResumeStats are the statistics of Config.Resume.
type ResumeStats struct {
	On      bool   // the present session can be resumed
	Resumed uint64 // sessions resumed on a new connection
	Lost    uint64 // sessions that ended otherwise than by Close
	Resent  uint64 // frames sent again
	Unacked int    // bytes kept for resending
}

// ResumeStats returns the statistics of Config.Resume.
func (c *Client) ResumeStats() ResumeStats {
	st := ResumeStats{Resumed: c.resumed.Load(), Lost: c.broken.Load(), Resent: c.resent.Load()}
	c.mu.Lock()
	s := c.session
	c.mu.Unlock()
	if s != nil && s.resume != nil {
		s.mu.Lock()
		st.On, st.Unacked = true, len(s.resume.buf)
		s.mu.Unlock()
	}
	return st
}

// Err returns the error that ended the client for good, or nil.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// set publishes the session that calls may use; nil for none.
func (c *Client) set(s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.session = s
	if c.err != nil {
		return
	}
	close(c.change)
	c.change = make(chan struct{})
}

// current waits for a session that accepts calls.
func (c *Client) current(ctx context.Context) (*session, error) {
	if s, _ := ctx.Value(onSession{}).(*session); s != nil && s.c == c {
		if s.ended() != nil || s.leaving.Load() {
			return nil, ErrLost
		}
		return s, nil
	}
	for {
		c.mu.Lock()
		s, change, err := c.session, c.change, c.err
		c.mu.Unlock()
		if err != nil {
			return nil, err
		}
		if s != nil && s.ended() == nil {
			if !s.leaving.Load() {
				return s, nil
			}
			change = s.gone
		}
		select {
		case <-change:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Do sends body to handle and waits for its answer, whose bytes belong to the caller. Errors:
// *Error for an ERROR of the server, ErrLost, ErrClosed, ErrMixed, codec.ErrBodyTooLarge,
// codec.ErrBadHandle, that of ctx.
func (c *Client) Do(ctx context.Context, handle uint32, body []byte) ([]byte, error) {
	for {
		b, err := c.do(ctx, handle, body)
		if !errors.Is(err, errLeft) { // errLeft: it was not written
			return b, err
		}
	}
}

// do is Do on the current session.
func (c *Client) do(ctx context.Context, handle uint32, body []byte) ([]byte, error) {
	select {
	case c.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-c.ctx.Done():
		return nil, c.Err()
	}
	if !c.cfg.Layout.Seq && c.hears(handle) {
		<-c.slots
		return nil, ErrMixed
	}
	k := &call{handle: handle, done: make(chan struct{})}
	s, err := c.current(ctx)
	if err == nil {
		err = s.send(ctx, handle, body, k)
	}
	if err != nil {
		<-c.slots
		return nil, err
	}
	select {
	case <-k.done: // the slot was released
		return k.body, k.err
	case <-ctx.Done():
		if !s.abandon(k) {
			<-k.done // it has ended, or will soon
			return k.body, k.err
		}
		return nil, ctx.Err()
	}
}

// Send sends a packet without waiting for an answer. With Resume it is resent until the server has
// received it, as long as the session lasts.
func (c *Client) Send(ctx context.Context, handle uint32, body []byte) error {
	for {
		s, err := c.current(ctx)
		if err != nil {
			return err
		}
		if err = s.send(ctx, handle, body, nil); !errors.Is(err, errLeft) {
			return err
		}
	}
}

// Call is Do with a request and an answer encoded by the client's serializer. With struct{} as Req
// an empty body is sent; with struct{} as Res the answer's body is ignored.
func Call[Req, Res any](ctx context.Context, c *Client, handle uint32, req Req) (Res, error) {
	var res Res
	var body []byte
	var err error
	if _, none := any(req).(struct{}); !none {
		if body, err = c.cfg.Serializer.Append(nil, &req); err != nil {
			return res, err
		}
	}
	if body, err = c.Do(ctx, handle, body); err != nil {
		return res, err
	}
	if _, none := any(res).(struct{}); !none {
		err = c.cfg.Serializer.Decode(body, &res)
	}
	return res, err
}
