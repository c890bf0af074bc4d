package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"millrace/services"
)

// kick has a worker look at the lock. l.mu is held.
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

// after has the lock looked at again in d. l.mu is held.
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

// sleep sets the lock's timer to the next time at which something ends by
// itself. l.mu is held.
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

// retryDelay is between attempts while the servers don't answer.
const retryDelay = 100 * time.Millisecond

// advance does what is to be done for a lock now: ends what is over, gives
// back what nobody here holds, takes it for the first that waits. It returns
// when to try again after an error, or 0. l.mu is held, but let go during
// exchanges; busy keeps other workers out.
func (l *locks) advance(k *lockKey) time.Duration {
	for {
		now := timeNow()
		l.expire(k, now)
		if k.held == nil && !l.free(k, now) && !now.Before(l.silent(k)) {
			if err := l.bury(k); err != nil {
				l.refuse(k, err)
				return retryDelay
			}
			continue
		}
		if !l.free(k, now) {
			// Also when it is ours: whoever was given the token may have unlocked
			// it in another process, which the watch tells a moment later.
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

// expire ends the holding and the waits whose time is over. l.mu is held.
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
		l.answer(it, 0, nil)
	}
}

// answer ends a wait with done. l.mu is held.
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

// tell calls done, unless the owner has let the lock go before.
func (l *locks) tell(it *lockItem, token uint64, err error) {
	l.mu.Lock()
	it.told = !it.released
	tells := it.told
	l.mu.Unlock()
	if tells {
		it.done(token, err)
	}
}

// refresh asks the servers, if somebody asks just once and so must hear what is
// true now, and says whether that changed anything. l.mu is held.
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
	case k.rev != rev: // the watch was faster
		return true, nil
	case err != nil, r.rev == rev, r.rev != 0 && r.rev < rev: // the last: a leader that has been cut off
		return false, err
	}
	l.learn(k, r)
	return true, nil
}

// refuse answers those who don't wait. One that came while the servers were being
// asked is for the next look: they may have answered before it came. l.mu is held.
func (l *locks) refuse(k *lockKey, err error) {
	for i := 0; i < len(k.waits); {
		if it := k.waits[i]; it.asked {
			l.answer(it, 0, err)
			i = 0 // the mutex was let go
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

// conflict reads what another has written, if that is what err says; nil means
// that there is news. l.mu is held.
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
	case k.rev != rev: // the watch was faster
		return nil
	case r.rev == rev:
		return err // the leader has changed its mind: not at once again
	}
	l.learn(k, r)
	return nil
}

// take writes the lock for it, on top of what is known. again says that things
// have changed and are to be looked at anew.
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
		return 0, !l.closed // its wait ended meanwhile, or somebody has taken it from us: look again
	}
	k.until = start.Add(it.o.TTL)
	l.answer(it, token, nil)
	return 0, true
}

// errNotYet: this process has no lease, or a lost store's holders may live.
var errNotYet = fmt.Errorf("%w: no lock is taken before the store is known to be whole", services.ErrCacheDown)

// fail answers it if it does not wait, else has it tried again later.
func (l *locks) fail(k *lockKey, it *lockItem, err error) (time.Duration, bool) {
	if it.key != nil && it.once {
		l.answer(it, 0, err)
		return 0, true
	}
	return retryDelay, false
}
