// Package cluster is the services.Cache that several processes share, on NATS
// JetStream key-value. Nothing else of the project links NATS.
//
//	srv, err := cluster.StartEmbedded(cluster.EmbeddedConfig{Dir: dir}) // or any NATS 2.11 or later
//	c, err := cluster.New(cluster.Config{URL: srv.URL()})
//	err = c.Start(ctx)
//	swapped, now, err := c.CompareAndSet(ctx, "k", nil, []byte("v"), 0)
//
// # What blocks
//
// Get, Set, Delete, CompareAndSet, Unlock and Watch exchange messages with the
// servers and block their goroutine meanwhile (Config.Timeout at most). Lock and
// Release never block: a few goroutines of this package do their exchanges, and
// a wait holds none.
//
// # What is promised
//
// Every write, and so CompareAndSet, Lock and Unlock, is decided by the leader of
// the bucket's stream (by raft, when it is replicated) against the key's last
// sequence: they are linearizable. A write that ends with services.ErrCacheDown
// may or may not have happened.
//
// Reads ask the leader too: the buckets are made without AllowDirect, so no
// replica that lags behind ever answers a Get. A leader that has been cut off
// and doesn't know it yet can answer with what was true at the cut; whoever
// decides something from a Get does it by CompareAndSet, which such a leader
// can't carry out.
//
// A value's ttl is counted by the servers from their own clock in whole seconds,
// rounded up; reads hide it to the millisecond, by the reader's clock against
// the server's time stamp.
//
// Fencing tokens are sequences of the lock bucket's stream: they grow as long as
// its data is kept, and an embedded server keeps it in a directory.
//
// A lock ends with its ttl, when its owner is released, or one lease after the
// process that holds it was last heard of. A process that starts later counts
// the lease from its start. A process that can't reach the servers for a lease
// takes its own locks for lost, before any other may have them; as with every
// lease, a holder that is suspended in between finds out afterwards, and what
// it writes elsewhere is refused only where the fencing token is checked.
//
// Watch: changes are seen in their order; after a reconnect the latest one.
package cluster
