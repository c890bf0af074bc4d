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

// backendFlags set up what stands behind the reference server's handlers.
type backendFlags struct {
	TimerTick        period  `group:"backends" default:"1ms" placeholder:"D" help:"Resolution of timers (${default})."`
	TimerSlack       timeout `group:"backends" default:"8ms" placeholder:"D" help:"While more than 48 timers fire on each tick, how much later one may come so that fewer wake-ups bring up more; off for none (${default})."`
	MaxTimers        count   `group:"backends" default:"1000000" placeholder:"N" help:"Timers pending, all sessions together (${default})."`
	MaxSessionTimers count   `group:"backends" default:"1024" placeholder:"N" help:"Timers pending in one session (${default})."`

	DB           string `group:"backends" name:"db" placeholder:"URL" help:"PostgreSQL at postgres://…, or embedded to run one from the installed binaries (none: 3/1, 4/1 and 4/2 answer ERROR 11)."`
	DBDir        string `group:"backends" name:"db-dir" placeholder:"PATH" help:"Where --db=embedded keeps its data (the system's place for state)."`
	DBLanes      count  `group:"backends" name:"db-lanes" default:"4" placeholder:"N" help:"Connections that all queries share (${default})."`
	DBBurst      count  `group:"backends" name:"db-burst" default:"64" placeholder:"N" help:"Queries that travel together at most (${default})."`
	DBSlow       count  `group:"backends" name:"db-slow" default:"4" placeholder:"N" help:"Connections that slow queries share; one session has all but one of them at most (${default})."`
	DBQueue      count  `group:"backends" name:"db-queue" default:"65536" placeholder:"N" help:"Queries that wait; past it they get ERROR 4 (${default})."`
	DBSlowQueue  count  `group:"backends" name:"db-slow-queue" default:"4096" placeholder:"N" help:"Slow queries of one session, waiting or running; past it they get ERROR 4 (${default})."`
	DBQueueBytes size   `group:"backends" name:"db-queue-bytes" default:"64MiB" placeholder:"SIZE" help:"Bytes of arguments that wait; past it ERROR 4. As many of results may wait for their sessions; past that the database is not read from (${default})."`
	DBTimeout    period `group:"backends" name:"db-timeout" default:"30s" placeholder:"D" help:"For one query, waiting included (${default})."`

	Cluster         string `group:"backends" placeholder:"URL" help:"Share keys and locks with other processes: nats://HOST:PORT or nats://TOKEN@HOST:PORT, or embedded to run a NATS server in this process or join the one of --cluster-dir (none: they are this process's)."`
	ClusterDir      string `group:"backends" placeholder:"PATH" help:"Where --cluster=embedded keeps its data, address and token, and finds the server of another process (the system's place for state)."`
	ClusterLease    period `group:"backends" default:"3s" placeholder:"D" help:"How long what a node has, its name, users and rooms, outlives it (${default})."`
	ClusterPrefix   string `group:"backends" default:"millrace" placeholder:"NAME" help:"Keeps clusters on one NATS apart (${default})."`
	ClusterReplicas count  `group:"backends" default:"1" placeholder:"N" help:"In how many copies the NATS servers keep what nodes share, 1 to 5; more than one takes as many servers (${default})."`
	ClusterCreds    string `group:"backends" placeholder:"FILE" help:"NATS credentials of this process, a user's JWT and seed, for --cluster nats://… (none: who the URL says)."`
	ClusterNKey     string `group:"backends" name:"cluster-nkey" placeholder:"FILE" help:"The seed of an NKEY instead (none)."`
	ClusterTLSCA    string `group:"backends" name:"cluster-tls-ca" placeholder:"FILE" help:"Certificates in PEM, of which one has signed those of the NATS servers; nothing is sent to them without TLS (the system's, where a server asks for TLS)."`
	ClusterTLSCert  string `group:"backends" name:"cluster-tls-cert" placeholder:"FILE" help:"A certificate of this process, in PEM, for NATS servers that ask for one (none)."`
	ClusterTLSKey   string `group:"backends" name:"cluster-tls-key" placeholder:"FILE" help:"The key of --cluster-tls-cert (none)."`
	Node            string `group:"backends" placeholder:"NAME" help:"This node's name: 1 to 64 letters, digits, - and _ (the host's name and the port, or the process where the port is not known yet)."`
	MaxClusterWork  count  `group:"backends" default:"4096" placeholder:"N" help:"Requests to other nodes, 6/2 to 6/5, that are under way; past it ERROR 4 (${default})."`
	MaxRooms        count  `group:"backends" default:"32768" placeholder:"N" help:"Rooms of 6/5 whose home is this node; past it ERROR 4 (${default})."`
	MaxKeys         count  `group:"backends" default:"1048576" placeholder:"N" help:"Keys in the cache of this process (${default})."`
	CacheBytes      size   `group:"backends" default:"256MiB" placeholder:"BYTES" help:"Keys and values in the cache of this process (${default})."`
	MaxSessionKeys  count  `group:"backends" default:"65536" placeholder:"N" help:"Different keys that one session may set (${default})."`
	MaxSessionLocks count  `group:"backends" default:"1024" placeholder:"N" help:"Locks that one session may hold or wait for (${default})."`
	MaxDelayed      count  `group:"backends" default:"1024" placeholder:"N" help:"Delay events of one session (${default})."`
}

// backends are the pool and what runs on it.
type backends struct {
	flags  *backendFlags
	pool   *engine.Pool
	timers *timerwheel.Service
	db     *dbasync.DB // nil without --db
	ready  func() bool // the database has its tables

	services *refservices.Services

	pg     *pgembed.Server   // of --db=embedded
	nats   *cluster.Embedded // of --cluster=embedded
	cache  cacheService
	node   *nodes.Node // alone without --cluster
	cancel context.CancelFunc
	bg     sync.WaitGroup
}

// startBackends starts the pool, the database and the timers. When it fails, nothing
// is left running. measure: the requests of each handle are counted.
func startBackends(ctx context.Context, f *backendFlags, cfg engine.Config, measure bool, schemas map[string]fs.FS) (_ *backends, err error) {
	b := &backends{flags: f}
	ctx, b.cancel = context.WithCancel(ctx)
	defer func() {
		if err != nil {
			b.stop(context.Background())
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

// cacheService is a cache that is started and stopped: either kind is.
type cacheService interface {
	services.Cache
	services.Service
}

// waitMemory is what a wait for a lock takes, in bytes, at most. All together fit into half of the
// memory budget.
const waitMemory = 2 << 10

// startServices makes the cache, this process's or the cluster's, and the services on it.
func (b *backends) startServices(ctx context.Context, f *backendFlags, cfg engine.Config, measure bool) (err error) {
	log := cfg.Logger
	shared := f.Cluster != ""
	if f.Node != "" && !nodes.IsName(f.Node) {
		return badNode(f.Node)
	}
	if !shared {
		err = f.onlyWithServers()
	}
	if err != nil {
		return err
	}
	if shared {
		err = b.joinCluster(f, cfg.Addrs, log)
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
		log.Warn("cluster: not reachable yet", "err", err) // 5/* answer ERROR 11 meanwhile
		b.bg.Go(func() { b.joinWhenUp(ctx, log) })
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

// serve registers the handles 1/* to 3/* beside those of the services.
func (b *backends) serve(unsafe bool) error {
	c := b.services.Controller
	return errors.Join(reference.Basics(c, unsafe, b.reach()), reference.Timers(c, b.timers), reference.Queries(c, b.db, b.ready))
}

// joinWhenUp keeps trying to start the shared cache.
func (b *backends) joinWhenUp(ctx context.Context, log *slog.Logger) {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		err := b.cache.Start(ctx)
		if err == nil {
			log.Info("cluster: joined")
			return
		}
		log.Warn("cluster: not reachable yet", "err", err, "again", wait)
	}
}

func (b *backends) joinCluster(f *backendFlags, addrs []string, log *slog.Logger) (err error) {
	url := f.Cluster
	if err := f.onlyWithServers(); err != nil {
		return err
	}
	if url == "embedded" {
		dir, err := dataDir(f.ClusterDir, "cluster")
		if err != nil {
			return err
		}
		b.nats, err = cluster.StartEmbedded(cluster.EmbeddedConfig{Dir: dir})
		if err != nil {
			return exitf(exitFailed, "--cluster embedded in %s: %w", dir, err)
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
	if b.node, err = nodes.New(nodes.Config{Name: f.nodeName(addrs), Cache: c, Addrs: addrs, Logger: log}); err != nil {
		return badNode(f.Node)
	}
	return nil
}

func (b *backends) startDB(ctx context.Context, f *backendFlags, log *slog.Logger, schemas map[string]fs.FS) error {
	b.ready = func() bool { return false }
	url := f.DB
	switch url {
	case "":
		return nil
	case "embedded":
		dir, err := dataDir(f.DBDir, "db")
		if err != nil {
			return err
		}
		b.pg, err = pgembed.Start(ctx, pgembed.Config{Dir: dir})
		if errors.Is(err, pgembed.ErrNotInstalled) {
			return exitf(exitUsage, "--db embedded: %w; install PostgreSQL, or give --db postgres://…", err)
		}
		if err != nil {
			return exitf(exitFailed, "--db embedded in %s: %w", dir, err)
		}
		url = b.pg.URL()
		b.bg.Go(func() { b.keepDatabase(ctx, log) })
	}
	db, err := dbasync.New(dbasync.Config{
		URL: url, Pool: b.pool, Logger: log, Lanes: int(f.DBLanes), MaxBurst: int(f.DBBurst), MaxQueue: int(f.DBQueue),
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

// badBackend words a connection string that can't be used, without its secrets.
func badBackend(flag, value string, err error) error {
	if why := mask.Why(value); why != "" { // the library's own words may quote a part of the password
		return exitf(exitUsage, "--%s %q: %s", flag, mask.Conn(value), why)
	}
	return exitf(exitUsage, "--%s %q: %w", flag, mask.Conn(value), mask.Error(err))
}

// keepDatabase starts the embedded database again when it has ended by itself.
func (b *backends) keepDatabase(ctx context.Context, log *slog.Logger) {
	const least, most = 100 * time.Millisecond, 5 * time.Second
	wait := least
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.pg.Done():
		}
		log.Error("database: the embedded server has ended; starting it again", "after", wait)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		if err := b.pg.Start(ctx); err != nil {
			wait = min(2*wait, most)
			log.Warn("database: not started", "err", err)
			continue
		}
		wait = least
	}
}

// migrateWhenUp keeps trying until the database, which may not be there yet, has its tables.
func (b *backends) migrateWhenUp(ctx context.Context, url string, schemas map[string]fs.FS, log *slog.Logger, migrated chan struct{}) {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := migrateAll(ctx, url, schemas)
		if err == nil {
			close(migrated)
			return
		}
		if ctx.Err() == nil {
			log.Warn("database: not ready yet", "err", err, "again", wait)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

func migrateAll(ctx context.Context, url string, schemas map[string]fs.FS) error {
	for set, files := range schemas {
		if _, err := migrate.Run(ctx, url, set, files); err != nil {
			return fmt.Errorf("%s: %w", set, err)
		}
	}
	return nil
}

// dataDir is where what is embedded keeps its data unless told otherwise.
func dataDir(dir, what string) (string, error) {
	if dir != "" {
		return filepath.Abs(dir)
	}
	if os.Getuid() == 0 { // PostgreSQL runs as another user, who can't look into /root
		return "/var/lib/millrace/" + what, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", exitf(exitUsage, "--%s embedded: %w; give --%s-dir", what, err, what)
	}
	return filepath.Join(home, ".local", "state", "millrace", what), nil
}

// stop ends the node, the timers, the cache, the database and the pool, in this order, within ctx.
func (b *backends) stop(ctx context.Context) {
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
