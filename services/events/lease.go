package events

import (
	"context"
	"fmt"
	"time"
)

// hold is an event running in this process.
type hold struct {
	attempt int
	created time.Time
	begun   time.Time
	ended   bool // its result is being recorded
	overdue bool // it ran for MaxRun; its lease is not renewed
	lost    bool // its row was claimed by another process
	gone    bool // it was given up while it was hanging
}

// hold records that e runs here.
func (d *Service) hold(e event) *hold {
	h := &hold{attempt: e.attempt, created: e.created, begun: time.Now()}
	d.holding.Lock()
	defer d.holding.Unlock()
	d.held[e.key] = h
	return h
}

// ending records that e's result is being written: its lease needs no renewal. It returns false if
// e was given up while it was hanging.
func (d *Service) ending(e event) bool {
	d.holding.Lock()
	defer d.holding.Unlock()
	e.hold.ended = true
	return !e.hold.gone
}

func (d *Service) forget(e event, lost bool) {
	d.holding.Lock()
	if d.held[e.key] == e.hold {
		delete(d.held, e.key)
	}
	lost = lost && !e.hold.lost
	d.holding.Unlock()
	if lost {
		d.noteLost(e.key)
	}
}

func (d *Service) noteLost(key string) {
	d.lost.Add(1)
	d.cfg.Logger.Warn("events: durable event lost its lease while it ran; it may run twice", "key", key)
}

// heldKeys returns the keys of events running here; all, or only those whose lease is renewed.
func (d *Service) heldKeys(all bool) []string {
	d.holding.Lock()
	defer d.holding.Unlock()
	keys := make([]string, 0, len(d.held))
	for k, h := range d.held {
		if all || !h.overdue {
			keys = append(keys, k)
		}
	}
	return keys
}

// renewAll renews the leases of events running here until ctx ends. It runs on a goroutine of the
// service.
func (d *Service) renewAll(ctx context.Context) {
	t := time.NewTicker(max(time.Millisecond, d.cfg.Lease/3))
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			d.renew(ctx)
		}
	}
}

func (d *Service) renew(ctx context.Context) {
	holds, keys, attempts, created, late := d.leases(time.Now())
	for _, k := range late {
		d.overdue.Add(1)
		d.cfg.Logger.Error("events: durable event runs too long; its lease is no longer renewed", "key", k, "limit", d.cfg.MaxRun)
	}
	if len(keys) == 0 {
		return
	}
	r, err := d.query(ctx, renewEvents, d.cfg.Lease.Microseconds(), keys, attempts, created)
	if err != nil {
		if ctx.Err() == nil {
			d.out.Fail(fmt.Errorf("%d leases not renewed: %w", len(keys), err))
		}
		return
	}
	rows := r.Rows()
	defer rows.Close()
	kept := map[string]bool{}
	for rows.Next() {
		var k string
		if rows.Scan(&k) == nil {
			kept[k] = true
		}
	}
	if rows.Err() != nil {
		return
	}
	for i, k := range keys {
		if !kept[k] && d.loses(holds[i]) {
			d.noteLost(k)
		}
	}
}

// leases lists the leases to renew, and the events that have just exceeded MaxRun.
func (d *Service) leases(now time.Time) (holds []*hold, keys []string, attempts []int32, created []time.Time, late []string) {
	d.holding.Lock()
	defer d.holding.Unlock()
	for k, h := range d.held {
		switch {
		case h.ended || h.lost || h.overdue:
		case now.Sub(h.begun) > d.cfg.MaxRun:
			h.overdue = true
			late = append(late, k)
		default:
			holds, keys = append(holds, h), append(keys, k)
			attempts, created = append(attempts, int32(h.attempt)), append(created, h.created)
		}
	}
	return holds, keys, attempts, created, late
}

// loses records that the row is no longer ours, unless the event has ended meanwhile.
func (d *Service) loses(h *hold) bool {
	d.holding.Lock()
	defer d.holding.Unlock()
	if h.ended || h.lost || h.gone {
		return false
	}
	h.lost = true
	return true
}

// sweep gives up events whose last attempt is run by no process any more: it died, or its handler
// hangs.
func (d *Service) sweep(ctx context.Context) {
	r, err := d.query(ctx, giveUpHung, int64(d.cfg.MaxAttempts), d.heldKeys(false))
	if err != nil {
		if ctx.Err() == nil {
			d.out.Fail(err)
		}
		return
	}
	rows := r.Rows()
	defer rows.Close()
	for rows.Next() {
		var e event
		var handle, attempts int64
		if err := rows.Scan(&e.key, &handle, &attempts); err != nil {
			d.cfg.Logger.Error("events: a durable event can't be read", "err", err)
			continue
		}
		e.handle = uint32(handle)
		d.letGo(e.key)
		d.givenUp.Add(1)
		d.cfg.Logger.Error("events: durable event given up", "key", e.key, "handle", e.handleText(), "attempts", attempts, "err", "the last attempt did not end")
	}
}

// letGo makes room for the next event of a key whose previous one hangs here and was given up.
func (d *Service) letGo(key string) {
	d.holding.Lock()
	defer d.holding.Unlock()
	if h := d.held[key]; h != nil {
		h.gone = true
		delete(d.held, key)
	}
}

// fetch reads a body that was too long to be read with others. On the pool.
func (d *Service) fetch(e *event) error {
	r, err := d.query(context.Background(), bodyOf, e.key, int64(e.attempt), e.created)
	if err != nil {
		return err
	}
	return r.Scan(&e.body)
}
