package dbasync

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"millrace/internal/seldom"
)

// Notification is one NOTIFY of the server.
type Notification struct {
	Channel, Payload string
	PID              uint32 // of the server process that sent it
	// Lost: notifications before this one may be missing, because the connection was lost or the
	// submitter was full. Channel is always set; a Lost one after a reconnection has no payload and
	// no PID.
	Lost bool
}

// maxNotes limits the notifications that wait for one listener's submitter.
const maxNotes = 1024

// Listen calls fn on the submitter on (nil: the DB's pool) for every NOTIFY of channel, one at a
// time and in order. All listeners share one connection, which is opened for the first. stop ends
// the subscription, as does a submitter that is closed. Errors: ErrClosed, ErrBadChannel,
// ErrNoListen.
func (db *DB) Listen(on Submitter, channel string, fn func(Notification)) (stop func(), err error) {
	if !db.running.Load() {
		return nil, ErrClosed
	}
	if db.unnamed {
		return nil, ErrNoListen
	}
	if err := checkChannel(channel); err != nil {
		return nil, err
	}
	if on == nil {
		on = db.pool
	}
	s := &subscription{l: &db.listens, channel: channel, on: on, fn: fn}
	return s.end, db.listens.add(s)
}

// maxChannel is the maximum length of a channel name, in bytes. PostgreSQL would truncate a longer
// one and listen to another channel.
const maxChannel = 63

func checkChannel(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%w: an empty name", ErrBadChannel)
	case len(name) > maxChannel:
		return fmt.Errorf("%w: %q has %d bytes, %d are possible", ErrBadChannel, clipBytes(name), len(name), maxChannel)
	case !utf8.ValidString(name) || strings.IndexByte(name, 0) >= 0:
		return fmt.Errorf("%w: %q is not text", ErrBadChannel, name)
	}
	return nil
}

func clipBytes(s string) string { return s[:min(len(s), maxChannel)] }

// listener owns the LISTEN connection.
type listener struct {
	db  *DB
	out seldom.Outage // of its connection

	mu      sync.Mutex
	subs    map[string][]*subscription // by channel; guarded by mu
	started bool                       // guarded by mu
	closed  bool                       // guarded by mu
	poke    context.CancelFunc         // ends the wait, so that LISTEN is sent again; guarded by mu
	cancel  context.CancelFunc
	wg      sync.WaitGroup
}

// subscription is one call of Listen, with a queue of its own.
type subscription struct {
	l       *listener
	channel string
	on      Submitter
	fn      func(Notification)

	mu      sync.Mutex
	queue   []Notification // guarded by mu; at most maxNotes
	lost    bool           // guarded by mu
	running bool           // guarded by mu
	ended   bool           // guarded by mu
}

func (l *listener) add(s *subscription) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return ErrClosed
	}
	if l.subs == nil {
		l.subs = make(map[string][]*subscription)
	}
	l.subs[s.channel] = append(l.subs[s.channel], s)
	if !l.started {
		l.started = true
		ctx, cancel := context.WithCancel(context.Background())
		l.cancel = cancel
		l.wg.Go(func() { l.run(ctx) })
	}
	l.pokeNow()
	return nil
}

func (l *listener) pokeNow() {
	if l.poke != nil {
		l.poke()
	}
}

// end removes s. No call begins after it; a running one continues.
func (s *subscription) end() {
	s.mu.Lock()
	s.ended, s.queue = true, nil
	s.mu.Unlock()
	l := s.l
	l.mu.Lock()
	defer l.mu.Unlock()
	rest := l.subs[s.channel][:0:0]
	for _, o := range l.subs[s.channel] {
		if o != s {
			rest = append(rest, o)
		}
	}
	if len(rest) == 0 {
		delete(l.subs, s.channel)
	} else {
		l.subs[s.channel] = rest
	}
	l.pokeNow()
}

func (l *listener) stop() {
	l.mu.Lock()
	l.closed = true
	if l.cancel != nil {
		l.cancel()
	}
	l.mu.Unlock()
	l.wg.Wait()
}

// run is the listener's goroutine.
func (l *listener) run(ctx context.Context) {
	pause := newBackoff(l.db.cfg.MinBackoff, l.db.cfg.MaxBackoff)
	first := true
	for ctx.Err() == nil {
		cctx, cancel := context.WithTimeout(ctx, l.db.cfg.ConnectTimeout)
		conn, err := pgx.ConnectConfig(cctx, l.db.pgCfg.ConnConfig.Copy())
		cancel()
		if err == nil {
			pause.reset()
			l.out.Fine()
			err = l.serve(ctx, conn, !first)
			first = false
			conn.Close(context.WithoutCancel(ctx))
		}
		if ctx.Err() == nil {
			l.out.Fail(err)
			pause.wait(ctx)
		}
	}
}

// serve listens on one connection until it breaks.
func (l *listener) serve(ctx context.Context, conn *pgx.Conn, again bool) error {
	have, refused := make(map[string]bool), make(map[string]bool)
	for {
		wctx, err := l.sync(ctx, conn, have, refused, again)
		if err != nil {
			return err
		}
		again = false
		n, err := conn.WaitForNotification(wctx)
		switch {
		case err == nil:
			l.publish(Notification{Channel: n.Channel, Payload: n.Payload, PID: n.PID})
		case ctx.Err() != nil || wctx.Err() == nil || conn.IsClosed():
			return err
		}
	}
}

// sync makes the server's LISTENs match the subscriptions and returns the context of the next wait.
func (l *listener) sync(ctx context.Context, conn *pgx.Conn, have, refused map[string]bool, again bool) (context.Context, error) {
	l.mu.Lock()
	if l.poke != nil {
		l.poke()
	}
	wctx, poke := context.WithCancel(ctx)
	l.poke = poke
	want := make(map[string]bool, len(l.subs))
	for ch := range l.subs {
		want[ch] = true
	}
	l.mu.Unlock()
	for ch := range want {
		if have[ch] || refused[ch] {
			continue
		}
		if _, err := conn.Exec(ctx, "listen "+pgx.Identifier{ch}.Sanitize()); err != nil {
			if conn.IsClosed() || !isPgError(err) {
				return nil, fmt.Errorf("dbasync: listen: %w", err)
			}
			// The server refuses this name; the other channels must not be affected.
			l.db.cfg.Logger.Error("dbasync: channel refused", "channel", ch, "err", err)
			refused[ch] = true
			continue
		}
		have[ch] = true
		if again {
			l.publish(Notification{Channel: ch, Lost: true})
		}
	}
	for ch := range have {
		if want[ch] {
			continue
		}
		if _, err := conn.Exec(ctx, "unlisten "+pgx.Identifier{ch}.Sanitize()); err != nil {
			return nil, fmt.Errorf("dbasync: unlisten: %w", err)
		}
		delete(have, ch)
	}
	return wctx, nil
}

func (l *listener) publish(n Notification) {
	l.mu.Lock()
	subs := l.subs[n.Channel]
	l.mu.Unlock()
	for _, s := range subs {
		s.post(n)
	}
}

// post queues n; above the limit n is dropped, and the next one is marked Lost.
func (s *subscription) post(n Notification) {
	db := s.l.db
	s.mu.Lock()
	switch {
	case s.ended:
	case len(s.queue) >= maxNotes:
		s.lost = true
		db.stats.notificationsLost.Add(1)
	default:
		n.Lost, s.lost = n.Lost || s.lost, false
		s.queue = append(s.queue, n)
		db.stats.notifications.Add(1)
	}
	s.mu.Unlock()
	s.start()
}

// start submits the task that empties the queue, unless it is submitted already.
func (s *subscription) start() {
	s.mu.Lock()
	if s.running || len(s.queue) == 0 {
		s.mu.Unlock()
		return
	}
	s.running = true
	s.mu.Unlock()
	err := s.on.Submit(s.run)
	if err == nil {
		return
	}
	s.mu.Lock()
	s.running = false
	s.mu.Unlock()
	if errors.Is(err, net.ErrClosed) {
		s.end()
		return
	}
	s.l.db.stats.submitterFull.Add(1)
}

// run runs on the submitter and processes the queue in order.
func (s *subscription) run() {
	finished := false
	defer func() {
		if !finished { // fn panicked: continue with the next notification in a new task
			s.mu.Lock()
			s.running = false
			s.mu.Unlock()
		}
	}()
	for {
		s.mu.Lock()
		if len(s.queue) == 0 {
			s.running, finished = false, true
			s.mu.Unlock()
			return
		}
		n := s.queue[0]
		s.queue = s.queue[1:]
		s.mu.Unlock()
		s.fn(n)
	}
}

// retry offers what a full submitter refused; the sweeper calls it.
func (l *listener) retry() {
	l.mu.Lock()
	var all []*subscription
	for _, subs := range l.subs {
		all = append(all, subs...)
	}
	l.mu.Unlock()
	for _, s := range all {
		s.start()
	}
}
