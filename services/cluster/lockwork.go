package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"millrace/services"
)

// kick queues the lock for a worker. l.mu is held.
func (l *locks) kick(k *lockKey) {
	if k.busy {
		k.again = true
		return
	}
	if l.closed {
		return
	}
	k.busy = true
	l.work = append(l.work, k)
	l.wake.Signal()
}

func (l *locks) worker() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		for len(l.work) == 0 && !l.closed {
			l.wake.Wait()
		}
		if l.closed {
			return
		}
		k := l.work[0]
		l.work = l.work[1:]
		retry := l.advance(k)
		k.busy = false
		switch {
		case k.again:
			k.again = false
			l.kick(k)
		case retry > 0:
			l.after(k, retry)
		default:
			l.sleep(k)
		}
	}
}

// after queues the lock again in d. l.mu is held.
func (l *locks) after(k *lockKey, d time.Duration) {
	if k.timer != nil {
		k.timer.Stop()
	}
	k.timer = time.AfterFunc(d, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.keys[k.key] == k {
			l.kick(k)
		}
	})
}

// sleep sets the lock's timer to the next time at which something expires. l.mu is held.
func (l *locks) sleep(k *lockKey) {
	var next time.Time
	by := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	for _, it := range k.waits {
		by(it.until)
	}
	switch {
	case k.held != nil:
		by(k.until)
	case k.taken && len(k.waits) > 0:
		by(k.until)
		by(l.silent(k))
	}
	if !next.IsZero() {
		l.after(k, max(next.Sub(timeNow()), time.Millisecond))
	} else if k.timer != nil {
		k.timer.Stop()
	}
}

// retryDelay is the time between attempts while the servers don't answer.
const retryDelay = 100 * time.Millisecond

// advance does what is due for a lock: it ends what has expired, releases the lock if nobody here
// holds it, or takes it for the first wait. It returns when to retry after an error, or 0. l.mu is
// held, but released during exchanges; busy excludes other workers.
func (l *locks) advance(k *lockKey) time.Duration {
	for {
		now := timeNow()
		l.expire(k, now)
		k.fault = nil
		if k.held == nil && !l.free(k, now) && !now.Before(l.silent(k)) {
			if err := l.bury(k); err != nil {
				k.fault = err
				l.refuse(k, err)
				return retryDelay
			}
			continue
		}
		if !l.free(k, now) {
			// Even if it is ours: a process that was given the token may have unlocked it, which
			// the watch reports a moment later.
			changed, err := l.refresh(k)
			if !changed {
				l.refuse(k, err)
				return 0
			}
			continue
		}
		if len(k.waits) == 0 {
			if !k.taken {
				return 0
			}
			if err := l.giveBack(k); err != nil {
				return retryDelay
			}
			continue
		}
		if retry, again := l.take(k, k.waits[0]); !again {
			return retry
		}
	}
}

// expire ends the hold and the waits whose time has passed. l.mu is held.
func (l *locks) expire(k *lockKey, now time.Time) {
	if k.held != nil && (!now.Before(k.until) || !now.Before(l.alive)) {
		l.c.expired.Add(1)
		l.lose(k)
	}
	for i := 0; i < len(k.waits); {
		it := k.waits[i]
		if it.once || now.Before(it.until) {
			i++
			continue
		}
		l.c.expired.Add(1)
		l.answer(it, 0, k.fault)
	}
}

// answer ends a wait by calling done. l.mu is held.
func (l *locks) answer(it *lockItem, token uint64, err error) {
	k := it.key
	l.dequeue(it)
	if token == 0 {
		l.end(it)
	} else {
		it.token = token
		k.held = it
		l.held++
		if k.isMember() {
			l.changed()
		}
	}
	gone := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if it.key != nil && it.key.held == it {
			it.given = true
			l.lose(k)
			l.kick(k)
		}
	}
	l.mu.Unlock()
	services.Deliver(it.o.On, func() { l.tell(it, token, err) }, gone)
	l.mu.Lock()
}

// tell calls done, unless the owner has released the lock before.
func (l *locks) tell(it *lockItem, token uint64, err error) {
	l.mu.Lock()
	it.told = !it.released
	tells := it.told
	l.mu.Unlock()
	if tells {
		it.done(token, err)
	}
}

// refresh reads the lock from the servers, if a single attempt needs the present state, and reports
// whether that changed anything. l.mu is held.
func (l *locks) refresh(k *lockKey) (bool, error) {
	ask := false
	for _, it := range k.waits {
		it.asked = it.once
		ask = ask || it.once
	}
	if !ask {
		return false, nil
	}
	rev := k.rev
	l.mu.Unlock()
	r, err := l.b.get(context.Background(), k.key)
	l.mu.Lock()
	switch {
	case k.rev != rev: // the watch has reported a change meanwhile
		return true, nil
	case err != nil, r.rev == rev, r.rev != 0 && r.rev < rev: // the last: answered by a leader that was cut off
		return false, err
	}
	l.learn(k, r)
	return true, nil
}

// refuse ends the single attempts. One that arrived during the request is left for the next pass,
// as the answer may be older. l.mu is held.
func (l *locks) refuse(k *lockKey, err error) {
	for i := 0; i < len(k.waits); {
		if it := k.waits[i]; it.asked {
			l.answer(it, 0, err)
			i = 0 // the mutex was unlocked
			continue
		}
		i++
	}
}

// giveBack marks the lock as free on the servers.
func (l *locks) giveBack(k *lockKey) error {
	rev := k.rev
	l.mu.Unlock()
	now, err := l.b.put(context.Background(), write{key: k.key, purge: true, ttl: markerTTL, expect: int64(rev)})
	l.mu.Lock()
	if err == nil {
		if now > k.rev {
			l.learn(k, record{rev: now})
		}
		return nil
	}
	return l.conflict(k, err)
}

// conflict reads what another process has written, if err is a conflict; nil means that there is
// new information. l.mu is held.
func (l *locks) conflict(k *lockKey, err error) error {
	if !errors.Is(err, errConflict) {
		return err
	}
	rev := k.rev
	l.mu.Unlock()
	r, getErr := l.b.get(context.Background(), k.key)
	l.mu.Lock()
	switch {
	case getErr != nil:
		return getErr
	case k.rev != rev: // the watch has reported a change meanwhile
		return nil
	case r.rev == rev:
		return err // contradictory answers, as after a change of leader: don't retry at once
	}
	l.learn(k, r)
	return nil
}

// take writes the lock for it, on top of what is known. again reports that the state has changed
// and must be processed again.
func (l *locks) take(k *lockKey, it *lockItem) (retry time.Duration, again bool) {
	start := timeNow()
	if !start.Before(l.alive) || start.Before(l.from) || !l.n.whole() {
		return l.fail(k, it, errNotYet)
	}
	value, _ := json.Marshal(lockValue{Proc: l.c.proc, TTL: int64((it.o.TTL + time.Millisecond - 1) / time.Millisecond)})
	rev := k.rev
	l.mu.Unlock()
	token, err := l.b.put(context.Background(), write{key: k.key, value: value, expect: int64(rev), room: true})
	err = l.n.accept(err)
	l.mu.Lock()
	if err != nil {
		if err = l.conflict(k, err); err != nil {
			return l.fail(k, it, err)
		}
		return 0, true
	}
	if token >= k.rev {
		l.learn(k, record{rev: token, present: true, value: value})
	}
	if now := timeNow(); it.key == nil || l.closed || k.rev != token || !now.Before(l.alive) || !now.Before(start.Add(it.o.TTL)) {
		return 0, !l.closed // its wait ended meanwhile, or another process has taken it: process it again
	}
	k.until = start.Add(it.o.TTL)
	l.answer(it, token, nil)
	return 0, true
}

// errNotYet: this process has no lease, or holders of a lost store may be alive.
var errNotYet = fmt.Errorf("%w: no lock is granted until the store has been verified", services.ErrCacheDown)

// fail ends it if it is a single attempt, else schedules a retry.
func (l *locks) fail(k *lockKey, it *lockItem, err error) (time.Duration, bool) {
	if it.key != nil && it.once {
		l.answer(it, 0, err)
		return 0, true
	}
	k.fault = err
	return retryDelay, false
}
