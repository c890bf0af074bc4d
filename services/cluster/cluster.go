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

// Config configures a cache. Zero fields mean the defaults.
type Config struct {
	// URL of the servers, comma-separated: nats://host:port.
	URL string
	// Bucket is the name of the two JetStream key-value buckets (Bucket and Bucket_locks), and the
	// prefix of the subjects of a Bus: it separates clusters that share NATS servers. Up to 64
	// letters, digits, '-' and '_'; default "millrace".
	Bucket string
	// Replicas is the number of replicas of each bucket, 1 to 5; default 1. Start raises the number
	// of an existing bucket to it, but never lowers it.
	Replicas int
	// Creds is a file of NATS credentials (a user's JWT and seed), NKey one of a user's seed.
	// Without them the URL identifies this process.
	Creds, NKey string
	// TLSCA is a file of CA certificates, PEM, to verify the servers with; default the system's. If
	// it is set, nothing is sent without TLS.
	TLSCA string
	// TLSCert and TLSKey are files with this process's client certificate and its key, PEM.
	TLSCert, TLSKey string
	// Lease is how long the locks of a process are kept after it has died; default 3 s, or 15 s
	// with Replicas above 1, because the servers take up to 8 s to elect a new leader of a
	// replicated bucket; at least 100 ms. The process renews it three times within that time.
	Lease time.Duration
	// Timeout limits one exchange with the servers; default 2 s.
	Timeout time.Duration
	// MaxBytes limits a bucket created by Start; default 256 MiB.
	MaxBytes int64
	// MaxKey and MaxValue limit the size of each, in bytes; default 512 and 512 KiB. The servers'
	// max_payload must be larger than MaxValue.
	MaxKey, MaxValue int
	// MaxLocks limits this process's locks and waits; default 65,536.
	MaxLocks int
	// MaxPerOwner limits those of one owner (except nil); default 1,024.
	MaxPerOwner int
	// MaxWatches limits this process's watches (each is a consumer on the servers); default 1,024.
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
	switch {
	case c.Lease != 0:
	case c.Replicas > 1:
		c.Lease = 15 * time.Second
	default:
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

// isBucket checks a name, which is also a part of subjects. Empty means the default.
func isBucket(s string) bool {
	return len(s) <= 64 && strings.IndexFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_')
	}) < 0
}

// isServer checks a URL: the client library would accept anything as a host name.
func isServer(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Host != "" && slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme)
}

// Cache is a services.Cache shared by several processes. Create it with New, then call Start.
type Cache struct {
	cfg  Config
	proc string // identifies this run of this process in its locks

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

	*lines
	again   *signal               // fires for a new connection, and when a watch misses changes
	checked atomic.Uint64         // number (see nth) of the connection on which the store was verified
	lost    atomic.Pointer[error] // set for good when the store is not the one that was opened
}

// check verifies that the store is still the one that was opened, and otherwise refuses it.
func (l *connection) check(ctx context.Context) error {
	if !l.up() {
		return errAway
	}
	nth := l.nth()
	for _, b := range []*bucket{l.values, l.locks.b} {
		if err := l.accept(b.same(ctx)); err != nil {
			return err
		}
	}
	l.checked.Store(nth)
	return nil
}

// whole reports whether the store was verified on the current connection.
func (l *connection) whole() bool { return l.checked.Load() == l.nth() }

// sure verifies the store before it is used on a new connection, and returns the connection's
// number.
func (l *connection) sure(ctx context.Context) (uint64, error) {
	nth := l.nth()
	if l.checked.Load() == nth && l.up() {
		return nth, nil
	}
	err := l.check(ctx)
	if err != nil && !errors.Is(err, errReplaced) && !errors.Is(err, errAway) {
		err = fmt.Errorf("%w: the store has not been verified: %v", services.ErrCacheDown, err) // nothing was requested from it
	}
	return nth, err
}

// accept stops this connection's use of the store if err is errReplaced.
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

// election is how long NATS takes at most, as measured, to elect a new leader of a replicated bucket.
const election = 8 * time.Second

// New checks the settings; it does not connect.
func New(cfg Config) (*Cache, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails
	return &Cache{cfg: cfg.withDefaults(), proc: hex.EncodeToString(id[:])}, nil
}

// Start connects, creates missing buckets, and reads the locks. ErrCacheDown means that the servers
// are unreachable: Start may be retried. ErrRefused, ErrCertificate and ErrServers need a change of
// the servers or of the settings.
func (c *Cache) Start(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.live.Load() != nil {
		return nil
	}
	if c.cfg.Replicas > 1 && c.cfg.Lease < election {
		c.cfg.Logger.Warn("cluster: the lease is shorter than an election of the servers may take: names, rooms and locks are lost then; use 15s or more",
			"lease", c.cfg.Lease, "replicas", c.cfg.Replicas)
	}
	l := &connection{lines: newLines(ctx, c.cfg.Timeout), again: newSignal()}
	defer l.begun()
	var denied atomic.Pointer[error]
	options, err := c.options("store", l.lines)
	if err != nil {
		return err
	}
	l.nc, err = nats.Connect(c.cfg.URL, append(options,
		nats.ReconnectHandler(func(nc *nats.Conn) {
			l.accepted(nc)
			l.again.fire()
		}),
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
		return fmt.Errorf("cluster: connect to %s: %w: %w", mask.Conn(c.cfg.URL), services.ErrCacheDown, mask.Error(err))
	}
	l.accepted(l.nc)
	if err := c.begin(ctx, l); err != nil {
		l.nc.Close()
		if why := denied.Load(); why != nil { // the missing answers were refused
			return refusedBy(*why)
		}
		return err
	}
	c.live.Store(l)
	return nil
}

// options returns the options of every connection of this process.
func (c *Cache) options(what string, dialer *lines) ([]nats.Option, error) {
	secure, err := c.cfg.secure()
	return append(secure,
		nats.Name("millrace "+c.proc+" "+what), nats.Timeout(c.cfg.Timeout), nats.MaxReconnects(-1),
		nats.ReconnectWait(100*time.Millisecond), nats.ReconnectJitter(100*time.Millisecond, time.Second),
		nats.SetCustomDialer(dialer), nats.SkipHostLookup(), // the dialer tries each address of a name, within Timeout
		nats.PingInterval(2*time.Second), nats.MaxPingsOutstanding(2),
		nats.ReconnectBufSize(-1),   // what can't be sent fails at once, and is not sent later
		nats.IgnoreAuthErrorAbort(), // refused credentials may become valid again
		// A write that times out may have lost everything it contained, or a part of a message:
		// messages in progress are reported as lost.
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

// Running reports whether it is started and connected, as far as is known. It never blocks.
func (c *Cache) Running() bool {
	l := c.live.Load()
	return l != nil && l.up() && l.lost.Load() == nil
}

// Stop releases this process's locks and disconnects. Waits end with services.ErrCacheClosed.
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

// Stats returns the statistics of this process only: Entries and Bytes are unknown.
func (c *Cache) Stats() services.CacheStats {
	s := services.CacheStats{Watches: c.watches.Load(), Refused: uint64(c.refused.Load()), Expired: uint64(c.expired.Load())}
	if l := c.live.Load(); l != nil {
		s.Locks, s.Waits = l.locks.counts()
	}
	return s
}
