package dispatch

import "time"

// The limits of adaptive dispatch.
//
// Passing a packet to an idle worker and its answer back to the loop takes 25 to 40 µs on two CPUs of
// a virtual machine (BenchmarkHandOver, worker minus inline), of which the loop itself spends about
// half. So a packet that takes longer than quickTime is better run by a worker, and a handle on the
// loop goes back to the workers when its packets take twice that.
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

// Learning reports whether the handle's packets should be timed and passed to Learn.
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
		if s.replace(at, e, next) || took <= quickTime { // a slow run must be counted
			return
		}
	}
}

// Slow reports whether Judge counts a turn of so many packets as slow.
func Slow(frames int, took time.Duration) bool {
	return took > slowTime*time.Duration(max(frames, 1))
}

// Judge is called for each handle of an inline turn of frames packets that took took together. It
// demotes the handle, and returns true, after maxStrikes turns longer than stallTime, each within
// strikeFade of the last, of which one of ten times stallTime counts twice; or when the slow turns
// outnumber the others by slowTurns.
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

// Demote moves a handle that was learned to be quick back to the workers, where it then needs twice as
// many quick runs as the last time. It returns whether the handle was on the loop because it was
// learned, not fixed.
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
