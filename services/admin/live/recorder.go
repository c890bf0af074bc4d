package live

import (
	"sync"
	"time"
)

const (
	keep   = 120 // points of history
	window = 10  // samples between the two that findings and quantiles compare
)

// Recorder keeps the data of the samples of the last two minutes.
type Recorder struct {
	mu      sync.Mutex
	seq     uint64               // of the newest point
	points  []Point              // the oldest first
	samples []Sample             // the last window+1, the oldest first
	renewed *Sample              // newer than all of them; nil: none
	found   []Finding            // problems in the newest sample
	began   map[string]time.Time // begin of each problem, by kind and what
	near    map[string]nearness  // of limits without their own count of near misses, by flag
	log     events
}

// nearness is how often samples found a limit nearly reached.
type nearness struct {
	n    uint64
	last time.Time
	is   bool // nearly reached in the last sample
}

// NewRecorder returns an empty Recorder.
func NewRecorder() *Recorder {
	return &Recorder{began: make(map[string]time.Time), near: make(map[string]nearness)}
}

// Add adds a sample newer than all before. It should be called once a second; if it is called less
// often, points are further apart.
func (r *Recorder) Add(s Sample) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.samples) > window {
		copy(r.samples, r.samples[1:])
		r.samples = r.samples[:window]
	}
	r.countNear(&s)
	r.samples = append(r.samples, s)
	r.renewed = nil
	n := len(r.samples)
	if n == 1 {
		return
	}
	r.seq++
	if len(r.points) == keep {
		copy(r.points, r.points[1:])
		r.points = r.points[:keep-1]
	}
	r.points = append(r.points, point(r.seq, &r.samples[n-2], &r.samples[n-1]))
	r.judge(find(&r.samples[0], &r.samples[n-1]), s.At)
}

// Renew replaces what is shown of the present by a sample that was taken between two of Add, as
// after a change by an operator. The history gets no point, and costs stay those of the last second.
func (r *Recorder) Renew(s Sample) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.samples) == 0 || s.At.Before(r.newest().At) {
		return
	}
	s.Costs = r.newest().Costs
	r.countNear(&s)
	r.renewed = &s
	r.judge(find(&r.samples[0], &s), s.At)
}

// newest returns the newest sample; there must be one.
func (r *Recorder) newest() *Sample {
	if r.renewed != nil {
		return r.renewed
	}
	return &r.samples[len(r.samples)-1]
}

// countNear sets the near misses of limits that don't count them.
func (r *Recorder) countNear(s *Sample) {
	for i := range s.Limits {
		l := &s.Limits[i]
		if l.Counted {
			continue
		}
		n := r.near[l.Flag]
		is := l.Max > 0 && float64(l.Used) >= nearlyFull*float64(l.Max)
		if is && !n.is {
			n.n++
		}
		if n.is = is; is {
			n.last = s.At
		}
		r.near[l.Flag] = n
		l.Near, l.Last = n.n, n.last
	}
}

// judge logs problems that have begun or ended.
func (r *Recorder) judge(found []Finding, now time.Time) {
	began := make(map[string]time.Time, len(found))
	for i := range found {
		f := &found[i]
		key := f.Kind + " " + f.What
		at, lasts := r.began[key]
		if !lasts {
			at = now
			r.log.add(now, f.Level, f.Kind, f.What+": "+f.Text)
		}
		f.Since = at.UnixMilli()
		began[key] = at
	}
	for i := range r.found {
		f := &r.found[i]
		key := f.Kind + " " + f.What
		if _, lasts := began[key]; !lasts {
			r.log.add(now, Info, f.Kind, f.What+": over after "+Duration(now.Sub(r.began[key]).Seconds()))
		}
	}
	r.found, r.began = found, began
}

// Event adds a line to the log: an operator's action, or a single event. The level is Info, Warn or
// Bad, the kind one word.
func (r *Recorder) Event(at time.Time, level, kind, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log.add(at, level, kind, text)
}
