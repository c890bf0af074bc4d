package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"millrace/internal/mask"
	"millrace/services"
)

// BusConfig sets up a Bus. Zero fields mean the defaults.
type BusConfig struct {
	// MaxOutbound bounds the messages that wait to be written to the servers; default
	// 8,192. One more is ErrOverloaded.
	MaxOutbound int
	// MaxAsks bounds the questions under way; default 65,536. One more is ErrOverloaded.
	MaxAsks int
	// OnUp is called when the servers can be reached, again or for the first time, and
	// OnSlow when an inbox was full and messages were lost. They must not block.
	OnUp, OnSlow func()
}

// BusStats counts what a Bus did.
type BusStats struct {
	Up                  bool
	Asks                int    // under way
	Outbound            int    // messages that wait to be written
	Sent, Received      uint64 // messages
	Refused, Failed     uint64 // ErrOverloaded; not written as the servers were away
	Slow, Late, Reached uint64 // inboxes that were full, answers that nobody waited for any more, connections
}

// Bus carries messages between processes, each at most once, those of one process to
// another in the order in which they were sent, whatever their subjects, if the other takes
// them by one Inbox. It has a connection of its own, beside that of the Cache, and keeps
// nothing for later: while the servers are away a message is refused at once.
//
// Publish and Post never block on the network: a goroutine of the bus writes, and so keeps
// the order. Ask and Answer write themselves, in no order with these, unless so many are under
// way that it is cheaper to have them written together.
type Bus struct {
	c       *Cache
	cfg     BusConfig
	prefix  string // of all subjects
	replies string // of the subjects of answers

	life sync.Mutex // Start and Stop
	nc   *nats.Conn // guarded by life; nil while stopped
	bg   sync.WaitGroup

	run  context.Context // ends with Stop
	end  context.CancelFunc
	up   atomic.Bool
	conn atomic.Pointer[nats.Conn]
	most atomic.Int64 // the servers' max_payload, as of the last connection: nats.Conn.MaxPayload waits behind a write
	out  chan outgoing

	mu   sync.Mutex
	asks map[uint64]*ask // guarded by mu
	last uint64          // guarded by mu; the id of the last ask

	sent, received, refused, failed, slow, late, reached atomic.Uint64
}

// outgoing is a message on its way to the writer, or, with flushed, a request to flush.
type outgoing struct {
	subject string
	data    []byte
	ask     uint64 // the id of a question; 0: it is none
	reply   string
	flushed chan error
}

// NewBus returns a bus through the servers of c. It starts nothing.
func (c *Cache) NewBus(cfg BusConfig) (*Bus, error) {
	if cfg.MaxOutbound < 0 || cfg.MaxAsks < 0 {
		return nil, fmt.Errorf("cluster: bus: MaxOutbound %d, MaxAsks %d: must be at least 1; 0 is the default", cfg.MaxOutbound, cfg.MaxAsks)
	}
	if cfg.MaxOutbound == 0 {
		cfg.MaxOutbound = 8192
	}
	if cfg.MaxAsks == 0 {
		cfg.MaxAsks = 1 << 16
	}
	return &Bus{c: c, cfg: cfg, prefix: c.cfg.Bucket + ".", replies: c.cfg.Bucket + ".r." + c.proc + ".", asks: map[uint64]*ask{}, out: make(chan outgoing, cfg.MaxOutbound)}, nil
}

// Start connects, or has it connect when the servers can be reached: it waits for them a
// little, and never fails for their being away.
func (b *Bus) Start(ctx context.Context) error {
	b.life.Lock()
	defer b.life.Unlock()
	if b.nc != nil {
		return errors.New("cluster: the bus has been started before")
	}
	b.run, b.end = context.WithCancel(context.Background())
	b.forgetOutgoing()
	first := make(chan struct{})
	var once sync.Once
	up := func(nc *nats.Conn) {
		b.most.Store(nc.MaxPayload())
		b.up.Store(true)
		b.reached.Add(1)
		once.Do(func() { close(first) })
		if b.cfg.OnUp != nil {
			b.cfg.OnUp()
		}
	}
	options, err := b.c.options("bus")
	if err != nil {
		b.end()
		return err
	}
	nc, err := nats.Connect(b.c.cfg.URL, append(options,
		nats.NoEcho(), nats.RetryOnFailedConnect(true), nats.FlusherTimeout(b.c.cfg.Timeout),
		nats.ConnectHandler(up), nats.ReconnectHandler(up),
		nats.DisconnectErrHandler(func(*nats.Conn, error) { b.down() }),
		nats.ErrorHandler(b.report))...)
	if err != nil {
		b.end()
		return fmt.Errorf("cluster: bus: %w: %w", services.ErrCacheDown, mask.Error(err))
	}
	answers, err := nc.Subscribe(b.replies+"*", b.answer)
	if err == nil {
		err = answers.SetPendingLimits(b.cfg.MaxAsks, 256<<20)
	}
	if err != nil {
		nc.Close()
		b.end()
		return fmt.Errorf("cluster: bus: %w", err)
	}
	b.nc = nc
	b.conn.Store(nc)
	b.bg.Go(b.writer)
	t := time.NewTimer(b.c.cfg.Timeout)
	defer t.Stop()
	select {
	case <-first:
	case <-t.C:
	case <-ctx.Done():
	}
	return nil
}

// forgetOutgoing drops what an earlier run has not written.
func (b *Bus) forgetOutgoing() {
	for {
		select {
		case <-b.out:
		default:
			return
		}
	}
}

// Stop ends the connection, and all questions under way with ErrLost. It may be called
// twice, and before Start.
func (b *Bus) Stop(ctx context.Context) error {
	b.life.Lock()
	defer b.life.Unlock()
	if b.nc == nil {
		return nil
	}
	flushed := b.Flush(ctx)
	b.end()
	b.conn.Store(nil)
	b.nc.Close()
	b.nc = nil
	b.down()
	b.bg.Wait()
	if errors.Is(flushed, context.DeadlineExceeded) {
		return fmt.Errorf("cluster: bus: stop: %w", flushed)
	}
	return nil
}

// Running tells whether it has been started.
func (b *Bus) Running() bool { return b.conn.Load() != nil }

// Up tells whether the servers can be reached, as far as is known.
func (b *Bus) Up() bool { return b.up.Load() }

// Stats returns a snapshot.
func (b *Bus) Stats() BusStats {
	b.mu.Lock()
	asks := len(b.asks)
	b.mu.Unlock()
	return BusStats{
		Up: b.Up(), Asks: asks, Outbound: len(b.out), Sent: b.sent.Load(), Received: b.received.Load(), Refused: b.refused.Load(),
		Failed: b.failed.Load(), Slow: b.slow.Load(), Late: b.late.Load(), Reached: b.reached.Load(),
	}
}

func (b *Bus) report(_ *nats.Conn, _ *nats.Subscription, err error) {
	if errors.Is(err, nats.ErrSlowConsumer) {
		b.slow.Add(1)
		if b.cfg.OnSlow != nil {
			b.cfg.OnSlow()
		}
	}
	level := slog.LevelDebug
	if errors.Is(err, nats.ErrPermissionViolation) {
		level = slog.LevelWarn // the others don't hear of it, or this process of them
	}
	b.c.cfg.Logger.Log(context.Background(), level, "cluster: bus", "err", mask.Error(err))
}

// down: what is under way has nobody any more who brings its answer.
func (b *Bus) down() {
	b.up.Store(false)
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, a := range b.asks {
		if a.sent {
			a.tell(result{err: ErrLost})
		}
	}
}

// Publish sends data to all who have subscribed to the subject, but for this process. It
// never blocks: ErrUnavailable, ErrOverloaded, ErrTooLarge. data is the bus's from now on.
func (b *Bus) Publish(subject string, data []byte) error {
	return b.put(outgoing{subject: subject, data: data})
}

func (b *Bus) put(o outgoing) error {
	if _, err := b.check(o); err != nil {
		return err
	}
	select {
	case b.out <- o:
		return nil
	default:
		b.refused.Add(1)
		return ErrOverloaded
	}
}

// check returns the connection for a message, if there is one that can take it.
func (b *Bus) check(o outgoing) (*nats.Conn, error) {
	nc := b.conn.Load()
	switch {
	case nc == nil || !b.up.Load():
		b.failed.Add(1)
		return nil, ErrUnavailable
	case int64(len(o.data)) > b.most.Load():
		return nil, ErrTooLarge
	}
	return nc, nil
}

// crowded is from how many that are under way together on messages are written together: each
// write by itself costs a system call, and waiting for the writer a switch of goroutines.
const crowded = 8

// send sends a message, in no order with others, together with others if there are many. Its
// data is not used behind the end of the call, or of a question.
func (b *Bus) send(o outgoing, crowd int) error {
	if crowd < crowded {
		return b.now(o)
	}
	own := o
	own.data = bytes.Clone(o.data)
	if err := b.put(own); !errors.Is(err, ErrOverloaded) {
		return err
	}
	return b.now(o)
}

// now writes a message on the caller's goroutine, which may block for Config.Timeout where
// the servers take nothing.
func (b *Bus) now(o outgoing) error {
	nc, err := b.check(o)
	if err == nil {
		err = b.write(nc, o)
	}
	return err
}

// writer's goroutine writes what was put, in its order.
func (b *Bus) writer() {
	nc := b.conn.Load()
	for {
		select {
		case <-b.run.Done():
			return
		case o := <-b.out:
			runtime.Gosched() // whoever is about to send more does: the library then writes it together
			b.writeAll(nc, o)
		}
	}
}

// writeAll writes a message, and those that wait behind it.
func (b *Bus) writeAll(nc *nats.Conn, o outgoing) {
	for {
		_ = b.write(nc, o) // who asked has been told
		select {
		case o = <-b.out:
		default:
			return
		}
	}
}

func (b *Bus) write(nc *nats.Conn, o outgoing) error {
	if o.flushed != nil {
		o.flushed <- nc.FlushTimeout(b.c.cfg.Timeout)
		return nil
	}
	if o.ask != 0 {
		b.mu.Lock()
		a := b.asks[o.ask]
		if a != nil {
			a.sent = true
		}
		b.mu.Unlock()
		if a == nil {
			return nil // its time is up: it has been told that nothing was done
		}
	}
	var err error
	if o.reply != "" {
		err = nc.PublishRequest(b.prefix+o.subject, o.reply, o.data)
	} else {
		err = nc.Publish(b.prefix+o.subject, o.data)
	}
	// Nothing is kept for a connection to come: an error here is a message that never leaves.
	if err != nil {
		b.failed.Add(1)
		if o.ask != 0 {
			b.fail(o.ask, ErrUnavailable)
		}
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	b.sent.Add(1)
	return nil
}

// Flush returns when the servers have had all that was sent, and the subscriptions that
// were made, before: what others send from then on comes here.
func (b *Bus) Flush(ctx context.Context) error {
	o := outgoing{flushed: make(chan error, 1)}
	if err := b.put(o); err != nil {
		return err
	}
	select {
	case err := <-o.flushed:
		if err != nil {
			return fmt.Errorf("%w: flush: %w", ErrUnavailable, err)
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-b.run.Done():
		return ErrUnavailable
	}
}
