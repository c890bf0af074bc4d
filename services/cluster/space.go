package cluster

import (
	"context"
	"encoding/base64"
	"time"

	"millrace/services"
)

// Space is a set of keys and locks separate from those of the Cache, so that names chosen by
// clients can't collide with them.
type Space struct {
	c      *Cache
	prefix string // first letter of the subjects
}

// The spaces.
const (
	spaceKeys    = "k" // of the Cache itself
	spaceMembers = "n"
	spaceUsers   = "u"
	spaceRooms   = "r"
)

// Users is the space in which package nodes stores the bindings of users.
func (c *Cache) Users() Space { return Space{c, spaceUsers} }

// Rooms is the space of the locks of cluster rooms.
func (c *Cache) Rooms() Space { return Space{c, spaceRooms} }

// subject encodes any key as one subject token.
func (s Space) subject(key string) string {
	return s.prefix + base64.RawURLEncoding.EncodeToString([]byte(key))
}

// Get is Cache.Get: one exchange with the servers.
func (s Space) Get(ctx context.Context, key string) (services.Entry, error) {
	return s.c.get(ctx, key, s.subject(key))
}

// CompareAndSetRevision is like that of Cache.
func (s Space) CompareAndSetRevision(ctx context.Context, key string, rev uint64, val []byte, ttl time.Duration) (bool, services.Entry, error) {
	return s.c.compareRevision(ctx, key, s.subject(key), rev, val, ttl)
}

// Lock is services.LockAndWait.
func (s Space) Lock(ctx context.Context, key string, o services.LockOptions) (token uint64, err error) {
	return services.LockAndWait(ctx, locksOf{s.c, s}, key, o)
}

// Unlock is like that of Cache.
func (s Space) Unlock(ctx context.Context, key string, token uint64) (bool, error) {
	return s.c.unlockAt(ctx, key, s.subject(key), token)
}

// Epoch returns the counter in the Revision of a value that does not expire: below 2^53.
func Epoch(revision uint64) uint64 { return revision >> 1 }

// Revision returns the revision for an Epoch, of a value that does not expire.
func Revision(epoch uint64) uint64 { return epoch << 1 }

// locksOf is a Cache that uses the locks of a space.
type locksOf struct {
	*Cache
	s Space
}

func (l locksOf) Lock(key string, o services.LockOptions, done func(uint64, error)) (func() bool, error) {
	return l.lockAt(key, l.s.subject(key), o, done)
}

func (l locksOf) Unlock(ctx context.Context, key string, token uint64) (bool, error) {
	return l.s.Unlock(ctx, key, token)
}

// Holder is the holder of a lock, as far as this process knows.
type Holder struct {
	Process string // as Cache.Process
	Token   uint64
	// Alive reports whether its lease is valid, or ended less than a tenth of a lease ago.
	Alive bool
}

// Holder returns the holder of the lock; the zero Holder if there is none. It does not contact the
// servers.
func (s Space) Holder(key string) Holder {
	n := s.c.live.Load()
	if n == nil {
		return Holder{}
	}
	l := n.locks
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.keys[s.subject(key)]
	if k == nil || !k.taken {
		return Holder{}
	}
	return Holder{Process: k.proc, Token: k.rev, Alive: l.living(k, timeNow())}
}

// Held reports whether this process holds the lock with that token at present, by its own clock, so
// that data protected by the lock may be used. It does not contact the servers.
func (s Space) Held(key string, token uint64) bool {
	n := s.c.live.Load()
	if n == nil {
		return false
	}
	l := n.locks
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.keys[s.subject(key)]
	return k != nil && k.held != nil && k.rev == token && l.living(k, timeNow())
}
