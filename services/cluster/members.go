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
// nobody: a process that has died is one for a tenth more than a lease. The list is the same
// while it does not change, and is not to be changed.
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

// memberList is what Members tells until one could have died, or until it is told otherwise.
type memberList struct {
	all   []Member
	until time.Time
}

// newList makes the list of now, unless that is the last one.
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

// livesUntil is when living ends to hold for the lock, if nothing is heard. l.mu is held.
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

// changed notes that who lives may be another from now on. l.mu is held.
func (l *locks) changed() { l.list.Store(nil) }

// isMember tells whether it is the lock of a member's name.
func (k *lockKey) isMember() bool { return strings.HasPrefix(k.key, spaceMembers) }

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
	if k.isMember() {
		l.members[subject] = k
		l.changed()
	}
	return k
}

// dropKey forgets a key. l.mu is held.
func (l *locks) dropKey(k *lockKey) {
	delete(l.keys, k.key)
	if k.isMember() {
		delete(l.members, k.key)
		l.changed()
	}
}
