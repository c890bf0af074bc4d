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

// BusConfig configures a Bus. Zero fields mean the defaults.
type BusConfig struct {
	// MaxOutbound limits the messages waiting to be written to the servers; default 8,192. Above it
	// Publish and Post return ErrOverloaded.
	MaxOutbound int
	// MaxAsks limits the requests in progress; default 65,536. Above it they fail with
	// ErrOverloaded.
	MaxAsks int
	// OnUp is called when the servers become reachable, for those that Start reaches before it
	// returns, and OnSlow when an inbox was full and messages were lost. They must not block.
	OnUp, OnSlow func()
}

// BusStats are the statistics of a Bus.
type BusStats struct {
	Up                  bool
	Asks                int    // requests in progress
	Outbound            int    // messages waiting to be written
	Sent, Received      uint64 // messages
	Refused, Failed     uint64 // ErrOverloaded; not written because the servers were unreachable
	Slow, Late, Reached uint64 // times an inbox was full, late answers, connections
}

// Bus carries messages between processes, each at most once. Messages from one process to another
// arrive in the order in which they were sent, whatever their subjects, if the other receives them
// with one Inbox. The bus has its own connection, separate from that of the Cache, and does not
// store messages: while the servers are unreachable a message is refused at once.
//
// Publish and Post never block on the network: a goroutine of the bus writes, and so keeps the
// order. Ask and Answer write on the caller's goroutine, in no order relative to these, unless so
// many are in progress that batching their writes is cheaper.
type Bus struct {
	c       *Cache
	cfg     BusConfig
	prefix  string // of all subjects
	replies string // of the subjects of answers

	life sync.Mutex // Start and Stop
	nc   *nats.Conn // guarded by life; nil while stopped
	bg   sync.WaitGroup

	run  context.Context // cancelled by Stop
	end  context.CancelFunc
	up   atomic.Bool
	conn atomic.Pointer[nats.Conn]
	most atomic.Int64 // the servers' max_payload as of the last connection: nats.Conn.MaxPayload may wait for a write
	out  chan outgoing

	mu   sync.Mutex
	asks map[uint64]*ask // guarded by mu
	last uint64          // guarded by mu; the id of the last ask

	thens sync.Pool // of *ask, those of AskThen that have ended

	sent, received, refused, failed, slow, late, reached atomic.Uint64
}

// outgoing is a message to be written or, if flushed is set, a request to flush.
type outgoing struct {
	subject string
	data    []byte
	ask     uint64 // the id of a request; 0 for other messages
	reply   string
	flushed chan error
}

// NewBus returns a bus that uses the servers of c. It starts nothing.
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

// Start connects, or arranges to connect when the servers become reachable: it waits for them
// briefly, and does not fail because they are unreachable.
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
		if b.cfg.OnUp != nil {
			b.cfg.OnUp()
		}
		once.Do(func() { close(first) }) // last: what OnUp does must not come in the middle of what follows Start
	}
	dialer := newLines(ctx, b.c.cfg.Timeout)
	defer dialer.begun()
	options, err := b.c.options("bus", dialer)
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

// Stop closes the connection, and ends all requests in progress with ErrLost. It may be called
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
	b.tellAll(func(a *ask) error { // those that nobody writes any more
		if a.sent {
			return ErrLost
		}
		return fmt.Errorf("%w: the bus has stopped", ErrUnavailable)
	})
	if errors.Is(flushed, context.DeadlineExceeded) {
		return fmt.Errorf("cluster: bus: stop: %w", flushed)
	}
	return nil
}

// Running reports whether it has been started.
func (b *Bus) Running() bool { return b.conn.Load() != nil }

// Up reports whether the servers are reachable, as far as is known.
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

// down ends the requests in progress: their answers can't arrive any more.
func (b *Bus) down() {
	b.up.Store(false)
	b.tellAll(func(a *ask) error {
		if a.sent {
			return ErrLost
		}
		return nil
	})
}

// MaxMessage returns how many bytes of data the servers accept in one message, as of the last
// connection; 0 if there has been none.
func (b *Bus) MaxMessage() int { return int(b.most.Load()) }

// Publish sends data to all subscribers of the subject, except in this process. It never blocks;
// errors are ErrUnavailable, ErrOverloaded, ErrTooLarge. data belongs to the bus from then on.
func (b *Bus) Publish(subject string, data []byte) error {
	return b.put(outgoing{subject: subject, data: data})
}

func (b *Bus) put(o outgoing) error {
	err := b.offer(o)
	if errors.Is(err, ErrOverloaded) {
		b.refused.Add(1)
	}
	return err
}

// offer is put that does not count a message as refused: it may still be written.
func (b *Bus) offer(o outgoing) error {
	if _, err := b.check(o); err != nil {
		return err
	}
	select {
	case b.out <- o:
		return nil
	default:
		return ErrOverloaded
	}
}

// check returns the connection for a message, if there is one that can send it.
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

// crowded is the number of concurrent messages from which on they are batched: each separate write
// costs a system call, and waiting for the writer costs a switch of goroutines.
const crowded = 8

// send sends a message, in no order with others, batched if many are in progress. Its data is not
// used after the call, or the request, has ended.
func (b *Bus) send(o outgoing, crowd int) error {
	if crowd < crowded {
		return b.now(o)
	}
	own := o
	own.data = bytes.Clone(o.data)
	if err := b.offer(own); !errors.Is(err, ErrOverloaded) {
		return err
	}
	return b.now(o)
}

// now writes a message on the caller's goroutine, which may block for Config.Timeout if the servers
// do not read.
func (b *Bus) now(o outgoing) error {
	nc, err := b.check(o)
	if err == nil {
		err = b.write(nc, o)
	}
	return err
}

// writer runs on a goroutine of its own and writes queued messages in order.
func (b *Bus) writer() {
	nc := b.conn.Load()
	for {
		select {
		case <-b.run.Done():
			return
		case o := <-b.out:
			runtime.Gosched() // let other senders add messages: the library then writes them together
			b.writeAll(nc, o)
		}
	}
}

// writeAll writes a message, and those queued after it.
func (b *Bus) writeAll(nc *nats.Conn, o outgoing) {
	for {
		_ = b.write(nc, o) // the sender was notified
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
			return nil // its time is up: it was reported as not done
		}
	}
	var err error
	if o.reply != "" {
		err = nc.PublishRequest(b.prefix+o.subject, o.reply, o.data)
	} else {
		err = nc.Publish(b.prefix+o.subject, o.data)
	}
	// Nothing is kept for a later connection: after an error the message is never sent.
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

// Flush returns when the servers have received everything sent, and every subscription made, before
// the call: messages that others send from then on are received.
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
