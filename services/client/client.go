package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"millrace/codec"
)

// Client is a connection to a server that is made anew when it is lost.
type Client struct {
	cfg   Config
	codec *codec.Codec
	slots chan struct{} // one for each call under way

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	ended  sync.WaitGroup

	mu     sync.Mutex
	link   *link         // guarded by mu; nil while there is none
	change chan struct{} // guarded by mu; closed when link changes
	ons    map[uint32]func(codec.Packet)
	err    error // guarded by mu; why it has ended for good

	unexpected, connects atomic.Uint64
}

// Handle makes a handle of its two parts.
func Handle(main, sub uint16) uint32 { return uint32(main)<<16 | uint32(sub) }

// Dial makes a client and waits for its first connection, until ctx ends; with
// NoReconnect it tries each address once.
func Dial(ctx context.Context, cfg Config) (*Client, error) {
	if len(cfg.Addrs) == 0 {
		return nil, errors.New("client: no address")
	}
	cfg = cfg.withDefaults()
	cd, err := codec.New(cfg.Layout, cfg.MaxFrame)
	if cfg.Framer != nil {
		if !cfg.Framer.Handles() {
			return nil, errors.New("client: a Framer without handles: answers can't be told apart; use codec.NewFramerReader and Writer")
		}
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
		err = ctx.Err()
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Close ends the client. Calls end with ErrClosed. It may be called twice.
func (c *Client) Close() {
	c.end(ErrClosed)
	c.ended.Wait()
}

// end makes the client useless, for good.
func (c *Client) end(err error) {
	c.mu.Lock()
	if c.err == nil {
		c.err = err
		close(c.change)
	}
	c.mu.Unlock()
	c.cancel() // ends the connection
}

// On has fn called for every packet of the handle, which is then no longer for
// calls. fn gets a body that is valid until it returns. A nil fn ends it.
func (c *Client) On(handle uint32, fn func(codec.Packet)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if fn == nil {
		delete(c.ons, handle)
		return
	}
	c.ons[handle] = fn
}

// hears tells whether the handle's packets go to a function.
func (c *Client) hears(handle uint32) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ons[handle] != nil
}

// Connected says whether there is a connection now.
func (c *Client) Connected() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.link != nil
}

// Stats counts connections made, and packets that nobody waited for.
func (c *Client) Stats() (connects, unexpected uint64) {
	return c.connects.Load(), c.unexpected.Load()
}

// Err is the error that ended the client for good, or nil.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// run connects, again and again. Its goroutine is the client's.
func (c *Client) run(first chan<- error) {
	backoff := c.cfg.MinBackoff
	told := "" // where the last GOAWAY says to go
	for n := 0; ; n++ {
		addr := c.cfg.Addrs[n%len(c.cfg.Addrs)]
		if told != "" {
			addr, told = told, ""
			n--
		}
		l, err := c.dial(addr)
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
				told = l.to // nobody writes it any more
			}
			if time.Since(start) > c.cfg.MaxBackoff {
				backoff = c.cfg.MinBackoff // it was not refused at once
			}
			if c.cfg.OnLost != nil {
				c.cfg.OnLost(err)
			}
			if c.cfg.NoReconnect {
				c.end(fmt.Errorf("%w: %w", ErrClosed, err))
			}
		} else if c.cfg.NoReconnect && n+1 == len(c.cfg.Addrs) {
			first <- err
			return
		}
		if !c.pause(backoff) {
			return
		}
		backoff = min(2*backoff, c.cfg.MaxBackoff)
	}
}

// use lets OnConnect, then calls, use a new connection until it ends with err; ready: calls
// could.
func (c *Client) use(l *link, first chan<- error) (ready bool, err error) {
	ended := make(chan error, 1)
	c.ended.Go(func() { ended <- l.run() })
	if c.cfg.OnConnect != nil {
		ctx, cancel := context.WithTimeout(context.WithValue(c.ctx, onLink{}, l), c.cfg.DialTimeout)
		stop := make(chan struct{})
		c.ended.Go(func() {
			select {
			case <-l.gone:
				cancel()
			case <-stop:
			}
		})
		err = c.cfg.OnConnect(ctx, c)
		close(stop)
		cancel()
		if err != nil {
			l.close(fmt.Errorf("%w: OnConnect: %w", ErrLost, err))
			return false, <-ended
		}
	}
	c.set(l)
	select {
	case first <- nil:
	default:
	}
	err = <-ended
	c.set(nil)
	return true, err
}

// onLink is the context key of the connection that OnConnect's calls are to use.
type onLink struct{}

// pause waits for between half of d and d; false: the client has been closed.
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

func (c *Client) dial(addr string) (*link, error) {
	ctx, cancel := context.WithTimeout(c.ctx, c.cfg.DialTimeout)
	defer cancel()
	conn, err := Connect(ctx, addr, c.cfg.TLS, c.cfg.Dialer)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	c.connects.Add(1)
	return newLink(c, conn), nil
}

// set publishes the connection, or that there is none.
func (c *Client) set(l *link) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.link = l
	if c.err != nil {
		return
	}
	close(c.change)
	c.change = make(chan struct{})
}

// current waits for a connection that takes calls.
func (c *Client) current(ctx context.Context) (*link, error) {
	if l, _ := ctx.Value(onLink{}).(*link); l != nil && l.c == c {
		select {
		case <-l.gone:
			return nil, ErrLost
		default:
		}
		if l.leaving.Load() {
			return nil, ErrLost
		}
		return l, nil
	}
	for {
		c.mu.Lock()
		l, change, err := c.link, c.change, c.err
		c.mu.Unlock()
		if err != nil {
			return nil, err
		}
		if l != nil && !l.leaving.Load() {
			return l, nil
		}
		if l != nil {
			change = l.gone
		}
		select {
		case <-change:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Do sends body to handle and waits for its answer, whose bytes are the
// caller's. Errors: *Error for an ERROR of the server, ErrLost, ErrClosed,
// ErrMixed, codec.ErrBodyTooLarge, codec.ErrBadHandle, ctx's.
func (c *Client) Do(ctx context.Context, handle uint32, body []byte) ([]byte, error) {
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
	var l *link
	for {
		var err error
		l, err = c.current(ctx)
		if err == nil {
			err = l.send(ctx, handle, body, k)
		}
		if errors.Is(err, errLeft) { // not written
			continue
		}
		if err != nil {
			<-c.slots
			return nil, err
		}
		break
	}
	select {
	case <-k.done: // the slot was given back
		return k.body, k.err
	case <-ctx.Done():
		if !l.abandon(k) {
			<-k.done // it is over, or about to be
			return k.body, k.err
		}
		return nil, ctx.Err()
	}
}

// Send sends a packet to which no answer is expected.
func (c *Client) Send(ctx context.Context, handle uint32, body []byte) error {
	for {
		l, err := c.current(ctx)
		if err != nil {
			return err
		}
		if err = l.send(ctx, handle, body, nil); !errors.Is(err, errLeft) {
			return err
		}
	}
}

// Call is Do with a request and an answer of the client's serializer. The None
// of a request is struct{}: nothing is sent; that of an answer: nothing is read.
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
