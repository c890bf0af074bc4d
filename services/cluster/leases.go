package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"millrace/internal/seldom"
	"millrace/services"
)

// lockProc is what is known of another process. Guarded by locks.mu.
type lockProc struct {
	rev    uint64        // the last sequence of its lease; 0 = none
	seen   time.Time     // when rev was learned
	lease  time.Duration // as announced by the process
	buried uint64        // the last mark on its lease: locks with lower tokens are free
	round  int
}

// procValue is the value of a process's lease.
type procValue struct {
	Lease int64 `json:"lease_ms"`
}

const procPrefix = "p"

// waitOut delays locks for a lease if there may be live holders that this store doesn't know: it
// was recreated next to values that are older, or it is a copy in which live processes have written
// nothing for a lease.
func (l *locks) waitOut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	lease := l.c.cfg.Lease
	others := false
	for _, p := range l.procs {
		others = others || p.rev > p.buried
		lease = max(lease, p.lease)
	}
	if (l.b.made && !l.n.values.made) || (others && l.b.nowAt.Sub(l.b.lastAt) > lease) {
		l.from = timeNow().Add(lease + margin(lease))
	}
}

// margin is the additional time that other processes wait, compared with the holder.
func margin(d time.Duration) time.Duration { return d / 10 }

// renewals renews this process's locks, verifies the store on each new connection, removes unused
// keys, and ends the waits when the store does not answer.
func (l *locks) renewals() {
	t := time.NewTicker(l.c.cfg.Lease / 3)
	defer t.Stop()
	again := l.n.again.next()
	log := l.c.cfg.Logger
	out := seldom.Outage{
		Lost: func(n int, err error, away time.Duration, _ bool) {
			log.Warn("cluster: the lease can't be renewed", "for", away.Round(time.Millisecond), "attempts", n, "err", err, "lease", l.c.cfg.Lease)
		},
		Back: func(away time.Duration, err error) {
			if err != nil {
				log.Warn("cluster: the lease was renewed late", "after", away.Round(time.Millisecond), "err", err)
				return
			}
			log.Info("cluster: the lease is renewed again", "after", away.Round(time.Millisecond))
		},
	}
	defer out.End()
	var failing time.Time // the start of the first of the renewals that failed; zero: the last one did not
	for {
		select {
		case <-l.run.Done():
			return
		case <-again:
			again = l.n.again.next()
		case <-t.C:
			l.listen()
		}
		if l.n.lost.Load() != nil {
			continue
		}
		start, err := timeNow(), error(nil)
		if !l.n.whole() {
			err = l.n.check(l.run)
		}
		if err == nil {
			err = l.n.accept(l.renew(l.run))
		}
		switch {
		case err == nil:
			out.Fine()
			failing = time.Time{}
		case l.run.Err() == nil:
			out.Fail(err)
			if failing.IsZero() {
				failing = start
			}
			if timeNow().Sub(failing) >= l.c.cfg.Timeout { // the servers are connected, and the store is away: see outages
				l.mu.Lock()
				l.endWaits(errAway)
				l.mu.Unlock()
			}
		}
		l.tidy()
	}
}

// listen restarts the watch if it has not reported our own last renewal.
func (l *locks) listen() {
	l.mu.Lock()
	deaf := l.echo < l.own
	l.mu.Unlock()
	if deaf && l.n.up() {
		l.n.again.fire()
	}
}

// renew writes this process's lease, on top of its last write.
func (l *locks) renew(ctx context.Context) error {
	value, _ := json.Marshal(procValue{Lease: l.c.cfg.Lease.Milliseconds()})
	key := procPrefix + l.c.proc
	for {
		start := timeNow()
		seq, err := l.b.put(ctx, write{key: key, value: value, expect: int64(l.own), room: true})
		if err == nil {
			l.renewed(start, seq)
			return nil
		}
		if !errors.Is(err, errConflict) {
			return err
		}
		r, err := l.b.get(ctx, key)
		switch {
		case err != nil:
			return err
		case r.present && r.rev > l.own:
			l.own = r.rev // our own write, whose answer was lost
			continue
		case r.rev != 0 && r.rev == l.own: // contradictory answers: an earlier write is under way, as after a change of leader
			return fmt.Errorf("%w: our lease: %w", services.ErrCacheDown, errConflict)
		case r.rev != 0 && r.rev < l.own:
			return fmt.Errorf("%w: our lease is at %d and was at %d", errReplaced, r.rev, l.own)
		}
		// Another process has declared this one dead.
		l.mu.Lock()
		l.alive = time.Time{}
		l.changed()
		l.loseAll()
		l.mu.Unlock()
		if err := l.n.check(ctx); err != nil {
			return err
		}
		l.own = r.rev
	}
}

func (l *locks) renewed(start time.Time, seq uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.own = seq
	if !timeNow().Before(l.alive) {
		l.loseAll() // those of the lapsed lease
		l.changed()
	}
	l.alive = start.Add(l.c.cfg.Lease)
	if l.lapse == nil {
		l.lapse = time.AfterFunc(l.alive.Sub(timeNow()), l.lapsed)
	}
	l.lapse.Reset(l.alive.Sub(timeNow()))
	for _, k := range l.keys {
		if len(k.waits) > 0 && k.held == nil {
			l.kick(k) // it could not be taken without a lease
		}
	}
}

// lapsed ends our locks with the lease.
func (l *locks) lapsed() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed && !timeNow().Before(l.alive) {
		l.c.expired.Add(l.held)
		l.loseAll()
	}
}

// loseAll ends all our locks. l.mu is held.
func (l *locks) loseAll() {
	for _, k := range l.keys {
		if k.held != nil {
			l.lose(k)
			l.kick(k)
		}
	}
}

// proc returns the record of a process. l.mu is held.
func (l *locks) proc(name string) *lockProc {
	p := l.procs[name]
	if p == nil {
		p = &lockProc{seen: timeNow(), lease: l.c.cfg.Lease, round: l.round}
		l.procs[name] = p
	}
	return p
}

// hear processes a record of a process's lease. l.mu is held.
func (l *locks) hear(name string, r record) {
	p := l.proc(name)
	p.round = l.round
	if r.rev <= p.rev && r.rev != 0 {
		return
	}
	p.rev = r.rev
	switch {
	case r.present:
		if !timeNow().Before(p.silent()) {
			l.changed() // it was not known to be alive
		}
		p.seen, p.lease = timeNow(), l.c.cfg.Lease
		var v procValue
		if json.Unmarshal(r.value, &v) == nil && v.Lease > 0 {
			p.lease = time.Duration(min(v.Lease, int64(longestTTL))) * time.Millisecond
		}
	case r.rev != 0:
		p.buried = max(p.buried, r.rev)
		l.changed()
		for _, k := range l.keys {
			if k.taken && k.proc == name {
				l.kick(k)
			}
		}
	}
}

// silent returns when the lock's holder process will not have renewed its lease in time. Only the
// servers can then decide whether it is alive. l.mu is held.
func (l *locks) silent(k *lockKey) time.Time { return l.proc(k.proc).silent() }

// silent returns when the process will not have renewed its lease in time.
func (p *lockProc) silent() time.Time { return p.seen.Add(p.lease + margin(p.lease)) }

// bury asks the servers to put the mark on the lease of k's holder, and returns the outcome; nil
// means that there is new information. l.mu is held.
func (l *locks) bury(k *lockKey) error {
	name := k.proc
	p := l.proc(name)
	key, rev := procPrefix+name, p.rev
	l.mu.Unlock()
	seq, err := l.b.put(context.Background(), write{key: key, purge: true, ttl: markerTTL, expect: int64(rev)})
	r := record{rev: seq}
	if errors.Is(err, errConflict) {
		r, err = l.b.get(context.Background(), key)
	} else if err == nil && seq == 0 { // there was no room for the mark
		r, err = l.b.get(context.Background(), key)
	}
	l.mu.Lock()
	if err != nil {
		return err
	}
	if r.rev == rev && r.present {
		return fmt.Errorf("cluster: lease of %s: %w", name, errConflict) // contradictory answers, as after a change of leader
	}
	l.hear(name, r)
	return nil
}
