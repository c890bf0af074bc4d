package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"millrace/cmd/millrace/internal/reference"
	"millrace/cmd/millrace/internal/refservices"
	"millrace/dbasync"
	"millrace/dbasync/migrate"
	"millrace/dbasync/pgembed"
	"millrace/engine"
	"millrace/internal/mask"
	"millrace/services"
	"millrace/services/cluster"
	"millrace/services/nodes"
	"millrace/timerwheel"
)

// backendFlags configure the services that the reference server's handlers use.
type backendFlags struct {
	TimerTick        period  `group:"backends" default:"1ms" placeholder:"D" help:"Resolution of timers (${default})."`
	TimerSlack       timeout `group:"backends" default:"8ms" placeholder:"D" help:"While more than 48 timers fire on each tick, how much later a timer may fire, so that one wake-up fires more of them; off for none (${default})."`
	MaxTimers        count   `group:"backends" default:"1000000" placeholder:"N" help:"Limit of pending timers, all sessions together (${default})."`
	MaxSessionTimers count   `group:"backends" default:"1024" placeholder:"N" help:"Limit of pending timers of one session (${default})."`

	DB           string `group:"backends" name:"db" placeholder:"URL" help:"PostgreSQL at postgres://…, or embedded to run a server from the installed binaries (none: 3/1, 4/1 and 4/2 answer ERROR 11)."`
	DBDir        string `group:"backends" name:"db-dir" placeholder:"PATH" help:"Where --db=embedded keeps its data (the system's directory for state)."`
	DBLanes      count  `group:"backends" name:"db-lanes" default:"4" placeholder:"N" help:"Connections that all queries share (${default})."`
	DBBurst      count  `group:"backends" name:"db-burst" default:"64" placeholder:"N" help:"Most queries sent in one write (${default})."`
	DBSlow       count  `group:"backends" name:"db-slow" default:"4" placeholder:"N" help:"Connections that slow queries share; one session uses all but one of them at most (${default})."`
	DBQueue      count  `group:"backends" name:"db-queue" default:"65536" placeholder:"N" help:"Limit of queries not yet completed; more get ERROR 4 (${default})."`
	DBSlowQueue  count  `group:"backends" name:"db-slow-queue" default:"4096" placeholder:"N" help:"Limit of slow queries of one session, waiting or running; more get ERROR 4 (${default})."`
	DBQueueBytes size   `group:"backends" name:"db-queue-bytes" default:"64MiB" placeholder:"SIZE" help:"Limit of bytes of arguments waiting; more get ERROR 4. Results waiting for their sessions may take as many bytes; above that the database connections are not read (${default})."`
	DBTimeout    period `group:"backends" name:"db-timeout" default:"30s" placeholder:"D" help:"Timeout of one query, the wait in the queue included (${default})."`

	Cluster         string     `group:"backends" placeholder:"URL" help:"Share keys and locks with other processes: nats://HOST:PORT or nats://TOKEN@HOST:PORT, or embedded to run a NATS server in this process, or join the one of --cluster-dir (none: keys and locks are local to this process)."`
	ClusterDir      string     `group:"backends" placeholder:"PATH" help:"Where --cluster=embedded keeps its data, address and token, and finds the server of another process (the system's directory for state)."`
	ClusterLease    autoPeriod `group:"backends" default:"auto" placeholder:"D" help:"How long a node's name, users and rooms stay reserved after it has died (${default}: 3s, or 15s with --cluster-replicas above 1)."`
	ClusterPrefix   string     `group:"backends" default:"millrace" placeholder:"NAME" help:"Prefix that separates clusters on the same NATS servers (${default})."`
	ClusterReplicas count      `group:"backends" default:"1" placeholder:"N" help:"Number of replicas that the NATS servers keep of shared data, 1 to 5; needs at least as many servers (${default})."`
	ClusterCreds    string     `group:"backends" placeholder:"FILE" help:"NATS credentials of this process, a user's JWT and seed, for --cluster nats://… (none: the user of the URL)."`
	ClusterNKey     string     `group:"backends" name:"cluster-nkey" placeholder:"FILE" help:"File with the seed of an NKEY, instead of --cluster-creds (none)."`
	ClusterTLSCA    string     `group:"backends" name:"cluster-tls-ca" placeholder:"FILE" help:"CA certificates, PEM, that the NATS servers' certificates are verified with; nothing is sent without TLS then (the system's, if a server requires TLS)."`
	ClusterTLSCert  string     `group:"backends" name:"cluster-tls-cert" placeholder:"FILE" help:"Client certificate of this process, PEM, for NATS servers that require one (none)."`
	ClusterTLSKey   string     `group:"backends" name:"cluster-tls-key" placeholder:"FILE" help:"The key of --cluster-tls-cert (none)."`
	Node            string     `group:"backends" placeholder:"NAME" help:"This node's name: 1 to 64 letters, digits, - and _ (the host's name and the port, or the process ID if the port is not known yet)."`
	MaxClusterWork  count      `group:"backends" default:"4096" placeholder:"N" help:"Limit of requests to other nodes in progress, 6/2 to 6/5; more get ERROR 4 (${default})."`
	MaxTakeovers    count      `group:"backends" default:"64" placeholder:"N" help:"With --resume and --cluster: limit of sessions being taken over from other nodes at a time; more wait, for --takeover-timeout at most. Together they take about this number times --takeover-bytes, on each of the two nodes (${default})."`
	TakeoverBytes   size       `group:"backends" default:"1MiB" placeholder:"BYTES" help:"Limit of bytes transferred with such a session; one with more stays where it is (${default})."`
	TakeoverTimeout period     `group:"backends" default:"3s" placeholder:"D" help:"How long a client waits for its session from another node, until requests in progress there have ended; after that it gets a new session (${default})."`
	MaxMoved        count      `group:"backends" default:"65536" placeholder:"N" help:"Limit of sessions remembered here after other nodes have taken them over, while their clients may still come with an old token; beyond it the oldest is forgotten, and its client gets a new session (${default})."`
	MaxRooms        count      `group:"backends" default:"32768" placeholder:"N" help:"Limit of rooms of 6/5 that run on this node; more get ERROR 4 (${default})."`
	MaxKeys         count      `group:"backends" default:"1048576" placeholder:"N" help:"Limit of keys in the cache of this process (${default})."`
	CacheBytes      size       `group:"backends" default:"256MiB" placeholder:"BYTES" help:"Limit of bytes of keys and values in the cache of this process (${default})."`
	MaxSessionKeys  count      `group:"backends" default:"65536" placeholder:"N" help:"Limit of different keys that one session may set (${default})."`
	MaxSessionLocks count      `group:"backends" default:"1024" placeholder:"N" help:"Limit of locks that one session may hold or wait for (${default})."`
	MaxDelayed      count      `group:"backends" default:"1024" placeholder:"N" help:"Limit of pending delay events of one session (${default})."`
}

// backends are the pool, the services that run on it, and the embedded servers.
type backends struct {
	flags  *backendFlags
	pool   *engine.Pool
	timers *timerwheel.Service
	db     *dbasync.DB // nil without --db
	ready  func() bool // reports whether the database has its tables

	services *refservices.Services

	pg     *pgembed.Server   // of --db=embedded
	nats   *cluster.Embedded // of --cluster=embedded
	cache  cacheService
	node   *nodes.Node // alone without --cluster
	cancel context.CancelFunc
	bg     sync.WaitGroup
}

// startBackends starts the pool, the database and the timers. If it fails, it leaves nothing
// running. With measure the requests of each handle are counted.
func startBackends(ctx context.Context, f *backendFlags, cfg engine.Config, measure bool, schemas map[string]fs.FS) (_ *backends, err error) {
	b := &backends{flags: f}
	ctx, b.cancel = context.WithCancel(ctx)
	defer func() {
		if err != nil {
			b.stop()
		}
	}()
	b.pool, err = engine.NewPool(engine.PoolConfig{
		Workers: cfg.Workers, Spare: cfg.SpareWorkers, MaxQueue: cfg.MaxQueue, MaxTasks: cfg.MaxTasks, StallAfter: cfg.StallAfter, Logger: cfg.Logger,
	})
	if err != nil {
		return nil, err
	}
	if err := b.pool.Start(ctx); err != nil {
		return nil, err
	}
	if err := b.startDB(ctx, f, cfg.Logger, schemas); err != nil {
		return nil, err
	}
	b.timers, err = timerwheel.New(timerwheel.Config{
		Tick: time.Duration(f.TimerTick), Slack: f.TimerSlack.engine(), MaxTimers: int(f.MaxTimers), MaxPerSet: int(f.MaxSessionTimers), Logger: cfg.Logger,
	}, b.pool)
	if err != nil {
		return nil, exitf(exitUsage, "--timer-tick %v, --timer-slack %v, --max-timers %d, --max-session-timers %d: %w", f.TimerTick, f.TimerSlack, f.MaxTimers, f.MaxSessionTimers, err)
	}
	if err := b.timers.Start(ctx); err != nil {
		return nil, err
	}
	return b, b.startServices(ctx, f, cfg, measure)
}

// cacheService is a cache with Start and Stop, local or shared.
type cacheService interface {
	services.Cache
	services.Service
}

// waitMemory is the most memory that waiting for a lock takes, in bytes. The waits of all sessions
// together may use half of the memory budget.
const waitMemory = 2 << 10

// startServices creates the cache, local or shared, and the services that use it.
func (b *backends) startServices(ctx context.Context, f *backendFlags, cfg engine.Config, measure bool) (err error) {
	log := cfg.Logger
	shared := f.Cluster != ""
	if f.Node != "" && !nodes.IsName(f.Node) {
		return badNode(f.Node)
	}
	if shared {
		err = b.joinCluster(ctx, f, cfg.Addrs, log)
	} else {
		b.cache, err = services.NewMemory(services.MemoryConfig{
			MaxEntries: int(f.MaxKeys), MaxBytes: int64(f.CacheBytes), MaxPerOwner: int(f.MaxSessionLocks),
			MaxLocks: min(1<<18, max(1<<10, cfg.MemoryBudget/waitMemory)),
		})
	}
	if err != nil {
		return err
	}
	if !shared {
		if b.node, err = nodes.New(nodes.Config{Name: f.nodeName(cfg.Addrs), Logger: log}); err != nil {
			return badNode(f.Node)
		}
	}
	err = b.cache.Start(ctx)
	switch {
	case err == nil:
	case shared && b.nats == nil && errors.Is(err, services.ErrCacheDown):
		why := err
		b.bg.Go(func() { b.joinWhenUp(ctx, f, why, log) }) // 5/* answer ERROR 11 meanwhile
	default:
		return f.noCluster(err)
	}
	b.services, err = refservices.New(refservices.Config{
		DB: b.db, Ready: b.ready, Timers: b.timers, Pool: b.pool, Cache: b.cache, Shared: shared,
		MaxKeys: int(f.MaxSessionKeys), MaxDelayed: int(f.MaxDelayed), Measure: measure, Logger: log,
		Node: b.node, MaxWork: int(f.MaxClusterWork), MaxRooms: int(f.MaxRooms),
	})
	return err
}

// serve registers the handles 1/* to 3/*, in addition to those of the services.
func (b *backends) serve(unsafe bool) error {
	c := b.services.Controller
	reference.Handoff(c)
	return errors.Join(reference.Basics(c, unsafe, b.reach()), reference.Timers(c, b.timers), reference.Queries(c, b.db, b.ready))
}

func (b *backends) joinCluster(ctx context.Context, f *backendFlags, addrs []string, log *slog.Logger) (err error) {
	url := f.Cluster
	if url == "embedded" {
		dir, err := dataDir(f.ClusterDir, "cluster")
		if err != nil {
			return err
		}
		b.nats, err = startNATS(ctx, dir)
		if err != nil {
			return exitf(exitFailed, "--cluster embedded in %s: %w%s", dir, err, elsewhere(err, "cluster-dir"))
		}
		url = b.nats.URL()
	}
	c, err := cluster.New(cluster.Config{
		URL: url, Bucket: f.ClusterPrefix, Lease: time.Duration(f.ClusterLease), MaxPerOwner: int(f.MaxSessionLocks),
		MaxLocks: 1<<16 + int(f.MaxRooms), Logger: log, Replicas: int(f.ClusterReplicas),
		Creds: f.ClusterCreds, NKey: f.ClusterNKey, TLSCA: f.ClusterTLSCA, TLSCert: f.ClusterTLSCert, TLSKey: f.ClusterTLSKey,
	})
	if err != nil {
		return f.badCluster(err)
	}
	b.cache = c
	if b.node, err = nodes.New(nodes.Config{
		Name: f.nodeName(addrs), Cache: c, Addrs: addrs, Logger: log,
		MaxTakeovers: int(f.MaxTakeovers), TakeoverBytes: int(f.TakeoverBytes), TakeoverTimeout: time.Duration(f.TakeoverTimeout), MaxMoved: int(f.MaxMoved),
	}); err != nil {
		return badNode(f.Node)
	}
	return nil
}

// startNATS starts the server of --cluster=embedded. If ctx ends first, the start is left to itself: it ends
// with the process.
func startNATS(ctx context.Context, dir string) (*cluster.Embedded, error) {
	type result struct {
		e   *cluster.Embedded
		err error
	}
	started := make(chan result, 1)
	go func() {
		e, err := cluster.StartEmbedded(cluster.EmbeddedConfig{Dir: dir})
		started <- result{e, err}
	}()
	select {
	case r := <-started:
		return r.e, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// elsewhere is the way out where a file or folder can't be had.
func elsewhere(err error, flag string) string {
	if path := (*fs.PathError)(nil); errors.As(err, &path) {
		return "; give another --" + flag
	}
	return ""
}

func (b *backends) startDB(ctx context.Context, f *backendFlags, log *slog.Logger, schemas map[string]fs.FS) error {
	b.ready = func() bool { return false }
	url := f.DB
	if url == "" {
		return nil
	}
	for _, n := range []struct {
		flag string
		got  count
		most count
	}{{"db-lanes", f.DBLanes, dbasync.MostLanes}, {"db-burst", f.DBBurst, dbasync.DefaultWindow}, {"db-slow", f.DBSlow, dbasync.MostSlowConns}} {
		if n.got > n.most {
			return exitf(exitUsage, "--%s %d: must be 1 to %d", n.flag, n.got, n.most)
		}
	}
	switch url {
	case "embedded":
		dir, err := dataDir(f.DBDir, "db")
		if err != nil {
			return err
		}
		b.pg, err = pgembed.Start(ctx, pgembed.Config{Dir: dir})
		if errors.Is(err, pgembed.ErrNotInstalled) {
			return exitf(exitUsage, "--db embedded: %w; install PostgreSQL, or give --db postgres://…", err)
		}
		if errors.Is(err, pgembed.ErrInUse) {
			return exitf(exitNoServer, "--db embedded: %w; stop that, or give another --db-dir", err)
		}
		if err != nil {
			return exitf(exitFailed, "--db embedded in %s: %w%s", dir, err, elsewhere(err, "db-dir"))
		}
		url = b.pg.URL()
		b.bg.Go(func() { b.keepDatabase(ctx, log) })
	}
	db, err := dbasync.New(dbasync.Config{
		URL: url, Name: "--db " + mask.Conn(f.DB), Pool: b.pool, Logger: log, Lanes: int(f.DBLanes), MaxBurst: int(f.DBBurst), MaxQueue: int(f.DBQueue),
		SlowConns: int(f.DBSlow), MaxSlowQueue: int(f.DBSlowQueue), MaxQueueBytes: int(f.DBQueueBytes),
		QueryTimeout: time.Duration(f.DBTimeout),
	})
	if err != nil {
		return badBackend("db", f.DB, err)
	}
	b.db = db
	if err := db.Start(ctx); err != nil {
		return err
	}
	migrated := make(chan struct{})
	b.ready = func() bool {
		select {
		case <-migrated:
			return db.Connected()
		default:
			return false
		}
	}
	if b.pg != nil {
		if err := migrateAll(ctx, url, schemas); err != nil {
			return exitf(exitFailed, "--db embedded: %w", err)
		}
		close(migrated)
		return nil
	}
	b.bg.Go(func() { b.migrateWhenUp(ctx, url, schemas, log, migrated) })
	return nil
}

// badBackend reports a connection string that can't be used, without its secrets.
func badBackend(flag, value string, err error) error {
	if why := mask.Why(value); why != "" { // the library's error may quote a part of the password
		return exitf(exitUsage, "--%s %q: %s", flag, mask.Conn(value), why)
	}
	return exitf(exitUsage, "--%s %q: %w", flag, mask.Conn(value), mask.Error(err))
}

func migrateAll(ctx context.Context, url string, schemas map[string]fs.FS) error {
	for set, files := range schemas {
		if _, err := migrate.Run(ctx, url, set, files); err != nil {
			return fmt.Errorf("%s: %w", set, err)
		}
	}
	return nil
}

// dataDir returns where an embedded server keeps its data: dir, or the default.
func dataDir(dir, what string) (string, error) {
	if dir != "" {
		return filepath.Abs(dir)
	}
	if os.Getuid() == 0 { // PostgreSQL runs as another user, which can't read /root
		return "/var/lib/millrace/" + what, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", exitf(exitUsage, "--%s embedded: %w; give --%s-dir", what, err, what)
	}
	return filepath.Join(home, ".local", "state", "millrace", what), nil
}

// stopTime is how long the backends may take to stop.
const stopTime = 5 * time.Second

// stop stops the node, the timers, the cache, the database and the pool, in this order.
func (b *backends) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	b.cancel()
	b.bg.Wait()
	if b.node != nil {
		_ = b.node.Stop(ctx)
	}
	if b.timers != nil {
		_ = b.timers.Stop(ctx)
	}
	if b.cache != nil {
		_ = b.cache.Stop(ctx)
	}
	if b.nats != nil {
		b.nats.Stop()
	}
	if b.db != nil {
		_ = b.db.Stop(ctx)
	}
	if b.pg != nil {
		_ = b.pg.Stop(ctx, pgembed.Fast)
	}
	if b.pool != nil {
		_ = b.pool.Stop(ctx)
	}
}
