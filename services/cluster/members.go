package cluster

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"millrace/services"
)

// ErrName: another living process has the name.
var ErrName = errors.New("cluster: the name is another living node's")

// Member is a process that has joined by a name, and lives as far as this process knows.
type Member struct {
	Name    string
	Process string // as Cache.Process
	Token   uint64 // grows with each that joins by the name; below 2^53
}

func (c *Cache) names() Space { return Space{c, spaceMembers} }

// Process names this Cache among all that ever were: 16 hexadecimal digits.
func (c *Cache) Process() string { return c.proc }

// Join takes a name for this process, which has it until Leave, or until its lease has
// ended: onLost is called then, as LockOptions.OnLost. It waits that long for one that
// is taken. ErrName: it was taken throughout.
func (c *Cache) Join(ctx context.Context, name string, wait time.Duration, onLost func()) (token uint64, err error) {
	token, err = c.names().Lock(ctx, name, services.LockOptions{TTL: time.Hour, Renew: true, Wait: wait, OnLost: onLost})
	if err == nil && token == 0 {
		return 0, fmt.Errorf("%w: %q", ErrName, name)
	}
	return token, err
}

// Leave gives the name up.
func (c *Cache) Leave(ctx context.Context, name string, token uint64) error {
	_, err := c.names().Unlock(ctx, name, token)
	return err
}

// Joined tells whether this process has the name by that token now, by its own clock.
func (c *Cache) Joined(name string, token uint64) bool { return c.names().Held(name, token) }

// Lease is how long what this process has lives on when it has died.
func (c *Cache) Lease() time.Duration { return c.cfg.Lease }

// Members are those that live, in no order, those of this process included. It asks
// nobody: a process that has died is one for a tenth more than a lease.
func (c *Cache) Members() []Member {
	n := c.live.Load()
	if n == nil {
		return nil
	}
	l := n.locks
	l.mu.Lock()
	defer l.mu.Unlock()
	now := timeNow()
	var all []Member
	for _, k := range l.members {
		if name, err := base64.RawURLEncoding.DecodeString(k.key[1:]); err == nil && l.living(k, now) {
			all = append(all, Member{Name: string(name), Process: k.proc, Token: k.rev})
		}
	}
	return all
}

// ServerTime is what the servers' clock says, as far as is known: it tells all processes
// the same, whatever the clocks of their machines say. Zero: nothing is known.
func (c *Cache) ServerTime() time.Time {
	n := c.live.Load()
	if n == nil {
		return time.Time{}
	}
	return n.values.clock.now()
}

// living tells whether the lock's holder has renewed its lease in time, as far as this
// process has heard. l.mu is held.
func (l *locks) living(k *lockKey, now time.Time) bool {
	switch {
	case !k.taken:
		return false
	case k.held != nil:
		return now.Before(k.until) && now.Before(l.alive)
	case k.proc == l.c.proc:
		return false // left over
	}
	return !l.free(k, now) && now.Before(l.silent(k))
}

// addKey enters a key that was not there. l.mu is held.
func (l *locks) addKey(subject string) *lockKey {
	k := &lockKey{key: subject, idle: timeNow()}
	l.keys[subject] = k
	if strings.HasPrefix(subject, spaceMembers) {
		l.members[subject] = k
	}
	return k
}

// dropKey forgets a key. l.mu is held.
func (l *locks) dropKey(k *lockKey) {
	delete(l.keys, k.key)
	delete(l.members, k.key)
}
