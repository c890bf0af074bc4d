package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"millrace/codec"
)

// The system frames: Main 0.
const (
	subPing   = 1
	subPong   = 2
	subError  = 3
	subGoAway = 4
)

// errLeft: the connection takes no more, and the packet was not written.
var errLeft = errors.New("client: connection left")

// call is one Do.
type call struct {
	handle uint32
	seq    uint32
	body   []byte
	err    error
	done   chan struct{} // closed when body and err are set
	over   bool          // guarded by link.mu: it is in no queue any more
	left   time.Time     // guarded by link.mu: when its caller gave up; zero: it waits
}

// link is one connection.
type link struct {
	c       *Client
	conn    net.Conn
	leaving atomic.Bool // GOAWAY: no new calls
	born    time.Time
	heard   atomic.Int64  // ns after born when the server was last heard
	gone    chan struct{} // closed when it has ended

	mu     sync.Mutex
	wake   *sync.Cond // for the writer, and for those who wait for room
	out    []byte     // guarded by mu: frames to write
	seq    uint32
	queues map[uint32][]*call   // guarded by mu: by handle, or by sequence number
	calls  int                  // guarded by mu: whose callers wait
	left   int                  // guarded by mu: whose callers have given up
	uses   map[uint32]use       // guarded by mu: what a handle has been used for
	late   map[uint32]time.Time // guarded by mu: since when no call of a handle was answered, of which some were given up
	err    error                // guarded by mu: why it has ended
	to     string               // guarded by mu: where a GOAWAY says to go
	stop   func() bool          // ends the watch over the client's end
}

// use is what a handle has been used for on a connection.
type use uint8

const (
	called use = 1 << iota
	sent
)

func newLink(c *Client, conn net.Conn) *link {
	l := &link{c: c, conn: conn, born: time.Now(), gone: make(chan struct{}), queues: map[uint32][]*call{}, uses: map[uint32]use{}, late: map[uint32]time.Time{}}
	l.wake = sync.NewCond(&l.mu)
	l.stop = context.AfterFunc(c.ctx, func() { l.close(c.Err()) })
	return l
}

// run works until the connection ends.
func (l *link) run() error {
	var wg sync.WaitGroup
	wg.Go(l.write)
	wg.Go(l.beat)
	l.read()
	wg.Wait()
	l.stop()
	return l.err // nobody writes it any more
}

// close ends the connection and the calls that wait on it, once.
func (l *link) close(err error) {
	l.mu.Lock()
	if l.err != nil {
		l.mu.Unlock()
		return
	}
	l.err = err
	queues := l.queues
	l.queues = nil
	for _, q := range queues {
		for _, k := range q {
			k.over = true
		}
	}
	close(l.gone)
	l.wake.Broadcast()
	l.mu.Unlock()
	_ = l.conn.Close()
	for _, q := range queues {
		for _, k := range q {
			if k.left.IsZero() {
				l.finish(k, nil, err)
			}
		}
	}
}

func (l *link) finish(k *call, body []byte, err error) {
	k.body, k.err = body, err
	close(k.done)
	<-l.c.slots
}

// send queues a packet for the writer; k, if any, waits for the answer.
func (l *link) send(ctx context.Context, handle uint32, body []byte, k *call) error {
	main, sub := codec.Split(handle)
	p := codec.Packet{Main: main, Sub: sub, Body: body}
	if err := l.c.codec.Check(p); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.wake.Broadcast()
	})
	defer stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.out) >= l.c.cfg.MaxUnsent && l.err == nil && ctx.Err() == nil {
		l.wake.Wait()
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case l.err != nil || l.leaving.Load():
		return errLeft
	}
	key := handle
	if l.c.cfg.Layout.Seq {
		l.seq++
		for l.seq == 0 || len(l.queues[l.seq]) > 0 {
			l.seq++
		}
		p.Seq, key = l.seq, l.seq
	}
	switch {
	case k == nil:
		l.uses[handle] |= sent
	case !l.c.cfg.Layout.Seq && l.uses[handle]&sent != 0:
		return ErrMixed
	default:
		l.uses[handle] |= called
		k.seq = p.Seq
		l.queues[key] = append(l.queues[key], k)
		l.calls++
	}
	l.out, _ = l.c.codec.Append(l.out, p)
	l.wake.Broadcast()
	return nil
}

// write sends what is queued, all of it at once.
func (l *link) write() {
	var spare []byte
	for {
		l.mu.Lock()
		for len(l.out) == 0 && l.err == nil {
			l.wake.Wait()
		}
		if l.err != nil {
			l.mu.Unlock()
			return
		}
		b := l.out
		l.out = spare[:0]
		l.wake.Broadcast() // there is room
		l.mu.Unlock()
		if _, err := l.conn.Write(b); err != nil {
			l.close(fmt.Errorf("%w: %w", ErrLost, err))
			return
		}
		if spare = b; cap(spare) > 64<<10 {
			spare = nil
		}
		if l.leaving.Load() {
			l.leave()
		}
	}
}

// read hands out what comes.
func (l *link) read() {
	r := codec.NewReader(l.conn, l.c.codec)
	for {
		p, err := r.Next()
		if err != nil {
			l.close(fmt.Errorf("%w: %w", ErrLost, err))
			return
		}
		l.heard.Store(int64(time.Since(l.born)))
		if p.Main == 0 {
			l.system(p)
		} else {
			l.packet(p)
		}
	}
}

func (l *link) system(p codec.Packet) {
	switch p.Sub {
	case subPing:
		l.mu.Lock()
		l.out, _ = l.c.codec.Append(l.out, codec.Packet{Sub: subPong, Seq: p.Seq, Body: p.Body})
		l.wake.Broadcast()
		l.mu.Unlock()
	case subError:
		l.error(p)
	case subGoAway:
		l.mu.Lock()
		if len(p.Body) > 4 {
			l.to = string(p.Body[4:])
		}
		l.mu.Unlock()
		l.leaving.Store(true)
		l.leave()
	}
}

// abandon notes that k's caller has given up; false: k is over. Its answer, when it comes,
// is thrown away: by order, k keeps its place for that.
func (l *link) abandon(k *call) bool {
	l.mu.Lock()
	if k.over {
		l.mu.Unlock()
		return false
	}
	k.left = time.Now()
	l.calls--
	if l.c.cfg.Layout.Seq {
		k.over = true
		delete(l.queues, k.seq)
	} else {
		l.left++
		if l.late[k.handle].IsZero() {
			l.late[k.handle] = k.left
		}
	}
	tooMany := l.left > l.c.cfg.MaxCalls
	l.mu.Unlock()
	<-l.c.slots
	if tooMany {
		l.close(fmt.Errorf("%w: over %d answers that nobody waits for have not come", ErrLost, l.c.cfg.MaxCalls))
	}
	if l.leaving.Load() {
		l.leave()
	}
	return true
}

// overdue tells whether calls of a handle have been given up for long and none was
// answered. One's answer may never come, and those of the calls behind it are then thrown
// away, each in another's place.
func (l *link) overdue() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, since := range l.late {
		if time.Since(since) > l.c.cfg.MaxLate {
			return true
		}
	}
	return false
}

// leave ends the connection after a GOAWAY, once nothing is under way.
func (l *link) leave() {
	l.mu.Lock()
	idle := l.calls == 0 && len(l.out) == 0
	l.mu.Unlock()
	if idle {
		l.close(fmt.Errorf("%w: the server is going away", ErrLost))
	}
}

// beat sends a PING when the server has been silent for a Heartbeat, and gives
// the connection up when it stays silent for another.
func (l *link) beat() {
	every, pings := l.c.cfg.Heartbeat, true
	if every < 0 {
		every, pings = l.c.cfg.MaxLate, false
	}
	t := time.NewTicker(max(min(every, l.c.cfg.MaxLate)/4, time.Millisecond))
	defer t.Stop()
	var pinged time.Time // zero: the server has been heard since
	for {
		select {
		case <-l.gone:
			return
		case <-t.C:
		}
		if l.overdue() {
			l.close(fmt.Errorf("%w: an answer has not come for %v after its call was given up", ErrLost, l.c.cfg.MaxLate))
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
			l.mu.Lock()
			l.out, _ = l.c.codec.Append(l.out, codec.Packet{Sub: subPing})
			l.wake.Broadcast()
			l.mu.Unlock()
		}
	}
}
