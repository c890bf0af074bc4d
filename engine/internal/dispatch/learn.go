package dispatch

import "time"

// What adaptive dispatch calls quick, and when it stops doing so.
//
// A hand-over to an idle worker and back to the loop takes 25 to 40 µs on two CPUs of a
// virtual machine (BenchmarkHandOver, worker less inline), of which the loop itself
// spends about half. So what takes longer than quickTime is better run by a worker, and
// what is on the loop goes back when it takes twice that.
const (
	quickTime  = 20 * time.Microsecond // a run of this length or less may be inline
	quickRuns  = 8                     // quick runs in a row before a handle goes inline
	maxBackoff = 10                    // each time it needs twice as many quick runs

	slowTime  = 2 * quickTime // a packet of an inline turn takes more on the average: that turn is slow
	slowTurns = 16            // so many more slow turns than others, and the handle goes back

	stallTime  = time.Millisecond // a slow turn longer than this has held the loop up: a strike
	maxStrikes = 3                // strikes before the handle goes back
	strikeFade = time.Minute      // without a strike they are forgotten
)

// Learning tells whether Learn wants to know how long the handle's packets take.
func (t *Table) Learning(handle uint32) bool {
	e, _ := t.slots.Load().get(handle)
	return e.kind() <= kindLearn
}

// Learn notes how long one packet of a handle took on a worker. After quickRuns quick
// ones in a row, twice as many for each time it was demoted, the handle goes inline.
func (t *Table) Learn(handle uint32, took time.Duration) {
	s := t.slots.Load()
	for {
		e, at := s.get(handle)
		if e.kind() > kindLearn {
			return
		}
		runs, kind := e.runs()+1, uint8(kindLearn)
		if took > quickTime {
			runs = 0
		}
		if runs >= quickRuns<<e.backoff() {
			kind, runs = kindQuick, 0
		}
		next := makeEntry(handle, kind, e.backoff(), 0, 0, runs)
		if at < 0 {
			s.place(next)
			return
		}
		if s.replace(at, e, next) || took <= quickTime { // a slow run must not get lost
			return
		}
	}
}

// Slow tells whether Judge would hold a turn of so many packets against their handles.
func Slow(frames int, took time.Duration) bool {
	return took > slowTime*time.Duration(max(frames, 1))
}

// Judge looks at an inline turn that a handle had a part in: frames packets that took so
// long together. It tells whether the handle has just been demoted: after maxStrikes
// turns that held the loop up, within strikeFade each, one of ten times stallTime counting
// twice; or when it is slow most of the time.
func (t *Table) Judge(handle uint32, frames int, took time.Duration) (demoted bool) {
	s := t.slots.Load()
	e, at := s.get(handle)
	if e.kind() != kindQuick {
		return false
	}
	if !Slow(frames, took) {
		if e.slow() > 0 {
			s.replace(at, e, makeEntry(handle, kindQuick, e.backoff(), e.strikes(), e.slow()-1, e.runs()))
		}
		return false
	}
	strikes, slow, last := e.strikes(), e.slow()+1, e.runs()
	if took >= stallTime {
		now := t.second()
		if now-last >= uint16(strikeFade/time.Second) {
			strikes = 0
		}
		strikes, last = strikes+1, now
		if took > 10*stallTime {
			strikes++
		}
	}
	if strikes >= maxStrikes || slow >= slowTurns {
		return t.Demote(handle)
	}
	s.replace(at, e, makeEntry(handle, kindQuick, e.backoff(), strikes, slow, last))
	return false
}

// Demote sends a handle that was learned to be quick back to the workers, where it has to
// show itself quick for twice as long as the last time. It tells whether it was inline by
// what was learned.
func (t *Table) Demote(handle uint32) bool {
	s := t.slots.Load()
	for {
		e, at := s.get(handle)
		if e.kind() != kindQuick {
			return false
		}
		if s.replace(at, e, makeEntry(handle, kindLearn, min(e.backoff()+1, maxBackoff), 0, 0, 0)) {
			return true
		}
	}
}
