package live

import (
	"time"

	"millrace/engine"
)

// Sample is what has been counted until one moment. A Recorder keeps the last ones: don't
// change what one refers to after Add.
type Sample struct {
	At     time.Time
	Engine engine.Stats

	CPU        time.Duration // of the process since its start
	Heap       uint64        // bytes in use
	Goroutines int

	Wait    Hist     // how long batches of packets waited for a worker
	Handles []Handle // those that were asked for
	Limits  []Limit  // those that have a limit
	Backs   []Back   // what stands behind the handlers
	Reasons []string // why the server is not ready; empty when it is
	Costs   *Costs   // who cost what since the sample before; nil: nobody keeps account
}

// Costs is who took the time of callbacks and writes to sockets. Times are milliseconds a
// second, so that 1,000 is a CPU. Each list has those that took most first.
type Costs struct {
	Known    bool    `json:"known"`   // false: it is looked at from now on, as somebody watches
	Process  float64 `json:"process"` // CPU time of the whole process
	Busy     float64 `json:"busy"`    // of all callbacks and writes
	Closed   float64 `json:"closed"`  // of it that of sessions that have closed
	Sessions []Cost  `json:"sessions"`
	Handles  []Cost  `json:"handles"`
	Tags     []Cost  `json:"tags"`
}

// Cost is what one of them took.
type Cost struct {
	Name string  `json:"name"` // INDEX.ROUND; MAIN/SUB, none for what is no request's, or other; a tag
	Addr string  `json:"addr,omitempty"`
	Tag  string  `json:"tag,omitempty"`
	Busy float64 `json:"busy"`
}

// Handle is what has been counted of one handle.
type Handle struct {
	Name     string // Main/Sub, or other
	Requests uint64
	Errors   uint64
	Run      Hist
}

// Limit is how much of a limit is used.
type Limit struct {
	Flag    string // without its dashes
	Used    int64
	Max     int64
	Bytes   bool   // both are bytes
	Near    uint64 // times that it was within a tenth, if Counted; else the samples that found it so are
	Counted bool
	Last    time.Time // the last of these
	Who     string    // whose that was; "" if nobody's in particular
}

// Back is a part behind the handlers: the database, the cluster, the timers.
type Back struct {
	Name   string
	Down   string  // why it can't be used; "" when it can
	Values []Value // in the order to show them
}

// Value is a number with a name. A Total only grows, and is shown with its rate.
type Value struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Total bool    `json:"total,omitempty"`
	Bad   bool    `json:"-"`              // a Total that should not grow, or a value that should be 0
	Rate  float64 `json:"rate,omitempty"` // a second, over the last ten; View fills it in
}

// Hist is a histogram, as buckets in the order of their bounds. Empty ones may be left out.
type Hist []Bucket

// Bucket counts what was over the bound of the bucket before and not over Le, in seconds.
type Bucket struct {
	Le float64 // +Inf in the last
	N  uint64
}

// since is h without what was already in before.
func (h Hist) since(before Hist) Hist {
	out := make(Hist, 0, len(h))
	i := 0
	for _, b := range h {
		for i < len(before) && before[i].Le < b.Le {
			i++
		}
		if i < len(before) && before[i].Le == b.Le {
			b.N -= min(b.N, before[i].N)
		}
		if b.N > 0 {
			out = append(out, b)
		}
	}
	return out
}

func (h Hist) count() (n uint64) {
	for _, b := range h {
		n += b.N
	}
	return n
}

// quantile is the bound, in seconds, that the part q of h is not over; 0 of an empty one.
// What is over the last bound that is finite counts as twice that.
func (h Hist) quantile(q float64) float64 {
	rank, at := q*float64(h.count()), uint64(0)
	bound := 0.0
	for _, b := range h {
		if b.N == 0 {
			continue
		}
		if b.Le > maxSeconds {
			b.Le = 2 * bound
		}
		bound = b.Le
		if at += b.N; float64(at) >= rank {
			break
		}
	}
	return bound
}

// maxSeconds is over every finite bound.
const maxSeconds = 1e9
