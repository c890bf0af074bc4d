package cluster

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"millrace/services"
)

// ErrName: another live process has the name.
var ErrName = errors.New("cluster: another living node has the name")

// Member is a process that has joined under a name, and is alive as far as this process knows.
type Member struct {
	Name    string
	Process string // as Cache.Process
	Token   uint64 // increases with each process that joins under the name; below 2^53
}

func (c *Cache) names() Space { return Space{c, spaceMembers} }

// Process returns a name that is unique among all Caches for all time: 16 hexadecimal digits.
func (c *Cache) Process() string { return c.proc }

// Join takes a name for this process, which keeps it until Leave, or until its lease has ended:
// then onLost is called, as LockOptions.OnLost. It waits up to wait for a name that is taken. If
// another process has it then, the error is ErrName; if nobody has, but the servers took longer or
// the lease ended meanwhile, it is services.ErrCacheDown.
func (c *Cache) Join(ctx context.Context, name string, wait time.Duration, onLost func()) (token uint64, err error) {
	token, err = c.names().Lock(ctx, name, services.LockOptions{TTL: time.Hour, Renew: true, Wait: wait, OnLost: onLost})
	if err != nil || token != 0 {
		return token, err
	}
	if h := c.names().Holder(name); h.Token == 0 || h.Process == c.proc {
		return 0, fmt.Errorf("%w: no answer for the name %q in time", services.ErrCacheDown, name)
	}
	return 0, fmt.Errorf("%w: %q", ErrName, name)
}

// Leave releases the name.
func (c *Cache) Leave(ctx context.Context, name string, token uint64) error {
	_, err := c.names().Unlock(ctx, name, token)
	return err
}

// Joined reports whether this process has the name with that token at present, by its own clock.
func (c *Cache) Joined(name string, token uint64) bool { return c.names().Held(name, token) }

// Lease returns how long locks and names are kept after their process has died.
func (c *Cache) Lease() time.Duration { return c.cfg.Lease }

// Members returns the live members, in no order, including those of this process. It does not
// contact the servers: a process that has died is listed for 1.1 leases. The same slice is returned
// while it does not change, and must not be modified.
func (c *Cache) Members() []Member {
	n := c.live.Load()
	if n == nil {
		return nil
	}
	if list := n.locks.list.Load(); list != nil && timeNow().Before(list.until) {
		return list.all
	}
	return n.locks.newList().all
}

// memberList is the result of Members until a member may have died or the list changes.
type memberList struct {
	all   []Member
	until time.Time
}

// newList returns the present list, the last one if it is unchanged.
func (l *locks) newList() *memberList {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := timeNow()
	list := &memberList{until: now.Add(time.Hour)}
	for _, k := range l.members {
		name, err := base64.RawURLEncoding.DecodeString(k.key[1:])
		if err != nil || !l.living(k, now) {
			continue
		}
		list.all = append(list.all, Member{Name: string(name), Process: k.proc, Token: k.rev})
		if until := l.livesUntil(k); until.Before(list.until) {
			list.until = until
		}
	}
	slices.SortFunc(list.all, func(a, b Member) int { return strings.Compare(a.Name, b.Name) })
	if last := l.last; slices.Equal(last, list.all) {
		list.all = last
	}
	l.last = list.all
	l.list.Store(list)
	return list
}

// livesUntil returns when the lock's holder will not be considered alive any more, without new
// information. l.mu is held.
func (l *locks) livesUntil(k *lockKey) time.Time {
	until := l.alive
	if k.held == nil {
		until = l.silent(k)
	}
	if k.until.Before(until) {
		until = k.until
	}
	return until
}

// changed invalidates the list of members. l.mu is held.
func (l *locks) changed() { l.list.Store(nil) }

// isMember reports whether it is the lock of a member's name.
func (k *lockKey) isMember() bool { return strings.HasPrefix(k.key, spaceMembers) }

// ServerTime returns an estimate of the servers' clock, which is the same for all processes,
// whatever the clocks of their machines say. It is zero if unknown.
func (c *Cache) ServerTime() time.Time {
	n := c.live.Load()
	if n == nil {
		return time.Time{}
	}
	return n.values.clock.now()
}

// living reports whether the lock's holder has renewed its lease in time, as far as this process
// knows. l.mu is held.
func (l *locks) living(k *lockKey, now time.Time) bool {
	switch {
	case !k.taken:
		return false
	case k.held != nil:
		return now.Before(k.until) && now.Before(l.alive)
	case k.proc == l.c.proc:
		return false // a leftover
	}
	return !l.free(k, now) && now.Before(l.silent(k))
}

// addKey adds a missing key. l.mu is held.
func (l *locks) addKey(subject string) *lockKey {
	k := &lockKey{key: subject, idle: timeNow()}
	l.keys[subject] = k
	if k.isMember() {
		l.members[subject] = k
		l.changed()
	}
	return k
}

// dropKey removes a key. l.mu is held.
func (l *locks) dropKey(k *lockKey) {
	delete(l.keys, k.key)
	if k.isMember() {
		delete(l.members, k.key)
		l.changed()
	}
}
