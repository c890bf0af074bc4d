// Package cluster is the services.Cache that several processes share, on NATS
// JetStream key-value, and the Bus that carries messages between them. Nothing else of
// the project imports NATS. Package nodes makes one of the processes.
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
// has not happened and won't; one that ends with services.ErrCacheUnknown as well
// was under way when the connection failed, and may have happened or still
// happen when what the network holds is delivered. Nothing is kept here to be
// sent later. Only Set can then replace a newer value: the others name what
// they replace.
//
// Reads ask the leader too: the buckets are made without AllowDirect, so no
// replica that lags behind ever answers a Get. A leader that has been cut off
// and doesn't know it yet can answer with what was true at the cut; whoever
// decides something from a Get does it by CompareAndSet, which such a leader
// can't carry out.
// With one server calls and reads together are linearizable, also past its end
// and its return. A call on a new connection looks at the store first, and so is
// never answered by an older copy of it.
//
// A value's ttl is counted by the servers' clock, whatever the reader's says. The
// servers remove values by whole seconds, rounded up; who asks for one whose time
// is over before that removes it before it is told to be gone. A negative ttl is
// an error.
//
// A full bucket refuses new values and locks with services.ErrCacheFull; deletes
// and unlocks go on.
//
// Fencing tokens are sequences of the lock bucket's stream, which begins at the
// time in microseconds when it is made: they grow, also past a stream that was
// lost. A running process refuses a stream that was made anew or is an older copy
// of the one it knew, with an error that says so, until it is stopped and
// started. A process that starts on an older copy while no other runs can't tell.
//
// A lock ends with its ttl (unless LockOptions.Renew), when its owner is
// released, or after the lease of a process that no longer renews it. Whether a
// process still renews is asked of the servers, by a write that they carry out
// only if it doesn't; that this process hears nothing of it says nothing. A
// process that can't reach the servers for a lease takes its own locks for lost,
// and LockOptions.OnLost is called, before any other may have them; as with every
// lease, a holder that is suspended in between finds out afterwards, and what
// it writes elsewhere is refused only where the fencing token is checked.
// After a lock stream was lost no lock is given for a lease, as long as the values
// are still there: where both are gone it looks like a first start, and the
// holders of before find out within their lease.
//
// Watch: changes are seen in their order; after a reconnect the latest one,
// at once. Waits for locks are looked at again then too.
package cluster
