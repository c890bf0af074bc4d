package dbasync

import (
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"
)

// failure handles ErrorResponse.
func (a *answers) failure(pg *pgconn.PgError) error {
	if s := pg.SeverityUnlocalized; s == "FATAL" || s == "PANIC" {
		return &fatalError{pg}
	}
	e, ok := a.cur()
	if !ok {
		return errNothingOwed
	}
	a.dirtyBurst = true
	switch e.kind {
	case kBegin:
		return a.failBegin(pg)
	case kChain, kGroup:
		a.fail(e.req, pg)
		if e.kind == kGroup {
			a.releaseHeld()
		}
	case kCommit:
		for _, h := range a.held {
			a.fail(h.req, pg)
		}
		a.held, a.nHeld = nil, 0
	case kStrict, kDescribe:
		return a.failStrict(e, pg)
	default:
		return fmt.Errorf("dbasync: %v failed: %w", e.kind, pg)
	}
	a.errors++
	a.pop()
	return a.skip()
}

// failBegin: nothing of the burst has run. If the lane's own prepared statements are missing (a
// function may discard them), the lane prepares them again; after any other error it is closed.
func (a *answers) failBegin(pg *pgconn.PgError) error {
	mine := a.aborted && pg.Code == codeAborted
	if pg.Code == codeNoStmt {
		a.bare, mine = true, true
	}
	a.errors++
	a.pop()
	if err := a.skip(); err != nil || mine {
		return err
	}
	return fmt.Errorf("dbasync: begin failed: %w", pg)
}

func (a *answers) failStrict(e entry, pg *pgconn.PgError) error {
	switch {
	case a.phase >= phSettled:
		return brokenf("two errors for %v", e.kind)
	case e.kind == kDescribe:
		a.desc.err = pg
		a.phase = phSettled
	case a.fail(e.req, pg):
		a.phase = phSettled
	default:
		a.phase = phAgain
	}
	return nil
}

// skip: the server discarded what follows up to the Sync.
func (a *answers) skip() error {
	for {
		e, ok := a.cur()
		if !ok {
			return brokenf("a burst without a Sync")
		}
		if e.kind == kSync {
			return nil
		}
		if e.req != nil {
			a.again = append(a.again, e.req)
		}
		a.pop()
	}
}

// fail settles a query that the server refused: it ends with the error, or is put back if the lane
// was the reason that it did not run. It reports whether r is finished; if so r is among gone,
// unless it is strict, where ReadyForQuery adds it.
func (a *answers) fail(r *request, pg *pgconn.PgError) bool {
	atBind := !a.bound && a.phase == phQuery
	switch {
	case pg.Code == codeAborted && a.aborted:
		a.again = append(a.again, r)
		return false
	case atBind && planChanged(pg) && r.tries < maxTries:
		r.tries++
		a.replan = append(a.replan, staleShape{r.shape, r.desc})
		r.desc = nil
		a.again = append(a.again, r)
		return false
	case atBind && pg.Code == codeNoStmt && r.tries < maxTries:
		r.tries++
		a.shapes.unprepared(r.shape, a.index)
		a.again = append(a.again, r)
		return false
	case atBind && descriptionFailed(pg):
		a.shapes.renew(r.shape)
	case pg.Code == codeCanceled && (a.resumed == 0 || a.now-a.resumed > a.calm): // not delayed by our own pause
		a.slow = append(a.slow, r.shape)
	}
	if _, ok := r.claim(); ok {
		r.res.Outcome, r.res.Err, r.res.Conn = SQLError, pg, a.index
		a.fin = append(a.fin, r)
	}
	if e, _ := a.cur(); e.kind != kStrict {
		a.gone = append(a.gone, r)
	}
	return true
}
