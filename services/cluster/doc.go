// Package cluster has a services.Cache that several processes share, on NATS JetStream key-value,
// and the Bus that carries messages between them. No other package of the project imports NATS.
// Package nodes builds a cluster of nodes on it.
//
//	srv, err := cluster.StartEmbedded(cluster.EmbeddedConfig{Dir: dir}) // or any NATS 2.11 or later
//	c, err := cluster.New(cluster.Config{URL: srv.URL()})
//	err = c.Start(ctx)
//	swapped, now, err := c.CompareAndSet(ctx, "k", nil, []byte("v"), 0)
//
// Get, Set, Delete, CompareAndSet, Unlock and Watch exchange messages with the servers and block
// their goroutine meanwhile (at most for Config.Timeout). Lock and Release never block: a few
// goroutines of this package do their exchanges, and waiting for a lock needs no goroutine.
// While the servers are unreachable, they all fail at once. A lock that is already being waited for
// fails after Config.Timeout, and keeps its place if the servers are back before that.
//
// All writes and locks are linearizable. A write that ends with services.ErrCacheDown has not
// happened and will not happen; one that ends with services.ErrCacheUnknown as well was in progress
// when the connection failed, and may have happened, or may still happen when the network delivers
// it. It ends when the connection is known to have failed, or after Config.Timeout. Nothing is
// stored in this process to be sent later. A lock that this process holds and whose Unlock ends
// like that is released by it a moment later, and Unlock returns false from then on.
//
// A lock ends with its TTL (unless LockOptions.Renew), when its owner is released, or after the
// lease of a process that no longer renews it. A process that can't reach the servers for a lease
// considers its own locks lost, and LockOptions.OnLost is called before any other process may have
// them. As with every lease, a holder that is suspended notices only afterwards; writes to other
// systems must check the fencing token, which only grows.
//
// TTLs are measured by the servers' clock and rounded up to whole seconds. A full bucket refuses new
// values and locks with services.ErrCacheFull; deletes and unlocks still work. Watches report
// changes in order; after a reconnect they report the latest one at once.
//
// docs/cluster.md describes the guarantees in full.
package cluster
