// Package cluster has a services.Cache that several processes share, on NATS JetStream key-value,
// and the Bus that carries messages between them. No other package of the project imports NATS.
// Package nodes builds a cluster of nodes on it.
//
//	srv, err := cluster.StartEmbedded(cluster.EmbeddedConfig{Dir: dir}) // or any NATS 2.11 or later
//	c, err := cluster.New(cluster.Config{URL: srv.URL()})
//	err = c.Start(ctx)
//	swapped, now, err := c.CompareAndSet(ctx, "k", nil, []byte("v"), 0)
//
// # Blocking
//
// Get, Set, Delete, CompareAndSet, Unlock and Watch exchange messages with the servers and block
// their goroutine meanwhile (at most for Config.Timeout). Lock and Release never block: a few
// goroutines of this package do their exchanges, and waiting for a lock needs no goroutine.
//
// # Guarantees
//
// Every write, and so CompareAndSet, Lock and Unlock, is decided by the leader of the bucket's
// stream (with raft, if it is replicated) by comparison with the key's last sequence: these
// operations are linearizable. A write that ends with services.ErrCacheDown has not happened and
// will not happen; one that ends with services.ErrCacheUnknown as well was in progress when the
// connection failed, and may have happened, or may still happen when the network delivers it.
// Nothing is stored in this process to be sent later. A delayed Set may then replace a newer value;
// the other operations name the value that they replace.
//
// Reads are answered by the leader too: the buckets are created without AllowDirect, so no lagging
// replica answers a Get. A leader that is cut off and doesn't know it yet can answer with what was
// true at the time of the cut; decisions based on a Get should therefore be made with
// CompareAndSet, which such a leader can't execute. With one server, calls and reads together are
// linearizable, also across its end and restart. A call on a new connection first verifies the
// store, and so is never answered by an older copy of it.
//
// TTLs are measured by the servers' clock, whatever the client's clock says. The servers remove
// values at whole seconds, rounded up; a reader that finds an expired value removes it before
// reporting it as absent. A negative TTL is an error.
//
// A full bucket refuses new values and locks with services.ErrCacheFull; deletes and unlocks still
// work.
//
// Fencing tokens are sequences of the lock bucket's stream, which begins at the time in
// microseconds when it is created: they increase even if a stream is lost. A running process
// refuses a stream that was recreated or is an older copy of the one it knew, with an error that
// says so, until it is stopped and started. A process that starts on an older copy while no other
// runs can't detect that.
//
// A lock ends with its TTL (unless LockOptions.Renew), when its owner is released, or after the
// lease of a process that no longer renews it. Whether a process still renews its lease is decided
// by the servers, with a write that they execute only if it doesn't; that another process hears
// nothing of it is not sufficient. A process that can't reach the servers for a lease considers its
// own locks lost, and LockOptions.OnLost is called before any other process may have them. As with
// every lease, a holder that is suspended in between notices only afterwards, and its writes to
// other systems are refused only if they check the fencing token. After a lock stream was lost, no
// lock is granted for a lease, as long as the values still exist: if both are lost, it looks like a
// first start, and the former holders notice within their lease.
//
// Watches report changes in order; after a reconnect they report the latest one at once. Waits for
// locks are then checked again too.
package cluster
