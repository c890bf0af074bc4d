package cluster

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"millrace/internal/mask"
	"millrace/services"
)

// Config sets a cache. Zero fields mean the defaults.
type Config struct {
	// URL of the servers, comma separated: nats://host:port.
	URL string
	// Bucket names the two JetStream key-value buckets (Bucket and
	// Bucket_locks), and stands in front of the subjects of a Bus: it keeps clusters on one
	// NATS apart. Up to 64 letters, digits, '-' and '_'; default "millrace".
	Bucket string
	// Replicas is in how many copies the servers keep each bucket, 1 to 5; default 1. One
	// that stands in fewer is copied more often by Start; never less.
	Replicas int
	// Creds is a file of NATS credentials (a user's JWT and seed), NKey one of a user's seed.
	// Without them this process is who the URL says.
	Creds, NKey string
	// TLSCA is a file of certificates, in PEM, of which one must have signed the servers';
	// without it those of the system. With it nothing is sent without TLS.
	TLSCA string
	// TLSCert and TLSKey are files of this process's own certificate and its key, in PEM.
	TLSCert, TLSKey string
	// Lease is how long the locks of a process outlive it; default 3 s, at
	// least 100 ms. It renews itself three times a lease.
	Lease time.Duration
	// Timeout bounds one exchange with the servers; default 2 s.
	Timeout time.Duration
	// MaxBytes bounds a bucket that Start creates; default 256 MiB.
	MaxBytes int64
	// MaxKey and MaxValue bound one of each, in bytes; default 512 and 512 KiB.
	// The servers' max_payload must be above MaxValue.
	MaxKey, MaxValue int
	// MaxLocks bounds this process's locks and waits; default 65,536.
	MaxLocks int
	// MaxPerOwner bounds those of one owner (nil is not bounded by it); default 1,024.
	MaxPerOwner int
	// MaxWatches bounds this process's watchers (each is a consumer on the
	// servers); default 1,024.
	MaxWatches int
	// Logger; default slog.Default().
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	def(&c.Replicas, 1)
	def(&c.MaxKey, 512)
	def(&c.MaxValue, 512<<10)
	def(&c.MaxLocks, 1<<16)
	def(&c.MaxPerOwner, 1024)
	def(&c.MaxWatches, 1024)
	if c.Bucket == "" {
		c.Bucket = "millrace"
	}
	if c.Lease == 0 {
		c.Lease = 3 * time.Second
	}
	if c.Timeout == 0 {
		c.Timeout = 2 * time.Second
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = 256 << 20
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

func (c Config) validate() error {
	var errs []error
	bad := func(is bool, text string) {
		if is {
			errs = append(errs, errors.New("cluster: "+text))
		}
	}
	for u := range strings.SplitSeq(c.URL, ",") {
		bad(!isServer(strings.TrimSpace(u)), "a URL must be nats://host:port")
	}
	bad(!isBucket(c.Bucket), "a bucket's name must be 1 to 64 letters, digits, '-' and '_'")
	if c.Replicas < 0 || c.Replicas > 5 {
		errs = append(errs, &ConfigError{"Replicas", c.Replicas, "must be 1 to 5"})
	}
	bad(c.Lease != 0 && c.Lease < 100*time.Millisecond, "lease under 100 ms")
	bad(c.Timeout < 0, "negative timeout")
	bad(c.MaxBytes < 0 || c.MaxKey < 0 || c.MaxValue < 0 || c.MaxLocks < 0 ||
		c.MaxPerOwner < 0 || c.MaxWatches < 0, "a limit is negative")
	errs = append(errs, c.checkFiles())
	return errors.Join(errs...)
}

// isBucket: the name is a part of subjects, too. None is the default's.
func isBucket(s string) bool {
	return len(s) <= 64 && strings.IndexFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_')
	}) < 0
}

// isServer: the client's library would take anything for a host's name.
func isServer(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Host != "" && slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme)
}

// Cache is the services.Cache of several processes. Make it with New, then Start.
type Cache struct {
	cfg  Config
	proc string // this run of this process, as its locks name it

	mu   sync.Mutex                 // Start and Stop
	live atomic.Pointer[connection] // nil while stopped

	watches, refused, expired atomic.Int64
}

var _ services.Cache = (*Cache)(nil)

// connection is what Start makes and Stop ends.
type connection struct {
	nc     *nats.Conn
	js     jetstream.JetStream
	push   nats.JetStreamContext
	values *bucket
	locks  *locks

	again   *signal               // fires when the connection is new, and when a watch is deaf
	checked atomic.Uint64         // the connection, as nth counts, on which the store was found whole
	lost    atomic.Pointer[error] // the store is not the one that was opened: for good
}

// check asks whether the store is still the one that was opened, and refuses it
// otherwise.
func (l *connection) check(ctx context.Context) error {
	nth := l.nth()
	for _, b := range []*bucket{l.values, l.locks.b} {
		if err := l.accept(b.same(ctx)); err != nil {
			return err
		}
	}
	l.checked.Store(nth)
	return nil
}

// nth counts the connections to the servers, from 1. The library's callbacks come
// too late for this: calls are answered on a new connection before they run.
func (l *connection) nth() uint64 { return l.nc.Stats().Reconnects + 1 }

// whole says whether the store was found whole on the connection of now.
func (l *connection) whole() bool { return l.checked.Load() == l.nth() }

// sure has the store found whole before it is used on a new connection. It
// returns which one that is.
func (l *connection) sure(ctx context.Context) (uint64, error) {
	nth := l.nth()
	if l.checked.Load() == nth {
		return nth, nil
	}
	err := l.check(ctx)
	if err != nil && !errors.Is(err, errReplaced) {
		err = fmt.Errorf("%w: the store is not known to be whole: %v", services.ErrCacheDown, err) // nothing was asked of it
	}
	return nth, err
}

// accept ends this connection's use of the store when err is errReplaced.
func (l *connection) accept(err error) error {
	if !errors.Is(err, errReplaced) {
		return err
	}
	err = fmt.Errorf("%w: %w", services.ErrCacheDown, err)
	if l.lost.CompareAndSwap(nil, &err) {
		l.locks.c.cfg.Logger.Error("cluster: the store is refused", "err", err)
		l.locks.refuseAll(err)
	}
	return err
}

// New checks the settings; it does not connect.
func New(cfg Config) (*Cache, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails
	return &Cache{cfg: cfg.withDefaults(), proc: hex.EncodeToString(id[:])}, nil
}

// Start connects, makes the buckets where they are missing, and reads the locks.
// ErrCacheDown when nobody answers: it may be tried again. ErrRefused, ErrCertificate and
// ErrServers are for whoever runs the servers, or has set this up.
func (c *Cache) Start(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.live.Load() != nil {
		return nil
	}
	l := &connection{again: newSignal()}
	var denied atomic.Pointer[error]
	options, err := c.options("store")
	if err != nil {
		return err
	}
	l.nc, err = nats.Connect(c.cfg.URL, append(options,
		nats.ReconnectHandler(func(*nats.Conn) { l.again.fire() }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			if errors.Is(err, nats.ErrPermissionViolation) {
				denied.CompareAndSwap(nil, &err)
			}
			c.cfg.Logger.Debug("cluster: nats", "err", mask.Error(err))
		}))...)
	if refused := refusedBy(err); refused != nil {
		return mask.Error(refused)
	}
	if err != nil {
		return fmt.Errorf("cluster: connect: %w: %w", services.ErrCacheDown, mask.Error(err))
	}
	if err := c.begin(ctx, l); err != nil {
		l.nc.Close()
		if why := denied.Load(); why != nil { // it has waited for answers that could not come
			return refusedBy(*why)
		}
		return err
	}
	c.live.Store(l)
	return nil
}

// options are those of every connection of this process.
func (c *Cache) options(what string) ([]nats.Option, error) {
	secure, err := c.cfg.secure()
	return append(secure,
		nats.Name("millrace "+c.proc+" "+what), nats.Timeout(c.cfg.Timeout), nats.MaxReconnects(-1),
		nats.ReconnectWait(100*time.Millisecond), nats.ReconnectJitter(100*time.Millisecond, time.Second),
		nats.PingInterval(2*time.Second), nats.MaxPingsOutstanding(2),
		nats.ReconnectBufSize(-1),   // what can't be sent now fails now, and is not sent later
		nats.IgnoreAuthErrorAbort(), // credentials that are refused may be right again
		// A write that has not ended in time may have lost all that it held, without a trace,
		// or a part of a message: what was under way is told to be lost.
		nats.ReconnectOnFlusherError(),
	), err
}

func (c *Cache) begin(ctx context.Context, l *connection) (err error) {
	if l.js, err = jetstream.New(l.nc, jetstream.WithDefaultTimeout(c.cfg.Timeout)); err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	if l.push, err = l.nc.JetStream(nats.MaxWait(c.cfg.Timeout)); err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	if err = c.able(ctx, l.nc, l.js); err != nil {
		return err
	}
	nth := l.nth()
	if l.values, err = c.open(ctx, l, c.cfg.Bucket, timeNow()); err != nil {
		return err
	}
	b, err := c.open(ctx, l, c.cfg.Bucket+"_locks", l.values.nowAt)
	if err != nil {
		return err
	}
	l.locks = newLocks(c, l, b)
	l.checked.Store(nth)
	l.values.store, b.store = l, l
	return l.locks.start(ctx)
}

// Running says whether it is started and connected.
func (c *Cache) Running() bool {
	l := c.live.Load()
	return l != nil && l.nc.IsConnected() && l.lost.Load() == nil
}

// Stop gives this process's locks back and disconnects. Waits end with
// services.ErrCacheClosed.
func (c *Cache) Stop(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.live.Swap(nil)
	if l == nil {
		return nil
	}
	err := l.locks.stop(ctx)
	l.nc.Close()
	l.locks.running.Wait()
	return err
}

// Stats tells of this process only: Entries and Bytes are not known to it.
func (c *Cache) Stats() services.CacheStats {
	s := services.CacheStats{Watches: c.watches.Load(), Refused: uint64(c.refused.Load()), Expired: uint64(c.expired.Load())}
	if l := c.live.Load(); l != nil {
		s.Locks, s.Waits = l.locks.counts()
	}
	return s
}
