package live

import (
	"time"

	"millrace/engine"
)

// Sample is the state of all counters at one moment. A Recorder keeps samples: after Add, don't
// modify what a sample refers to.
type Sample struct {
	At     time.Time
	Engine engine.Stats

	CPU        time.Duration // of the process since its start
	Heap       uint64        // bytes in use
	Goroutines int

	Wait    Hist     // how long batches of packets waited for a worker
	Handles []Handle // handles that were used
	Limits  []Limit  // those that are set
	Backs   []Back   // the backends of the handlers
	Reasons []string // why the server is not ready; empty when it is
	Costs   *Costs   // costs since the previous sample; nil if accounting is off
}

// Costs is the use of time by callbacks and writes to sockets. Times are milliseconds per second,
// so 1,000 is a CPU. Each list is sorted by time, largest first.
type Costs struct {
	Known    bool    `json:"known"`   // false: measurement starts now, because somebody watches
	Process  float64 `json:"process"` // CPU time of the whole process
	Busy     float64 `json:"busy"`    // of all callbacks and writes
	Closed   float64 `json:"closed"`  // part of Busy used by sessions that have closed
	Sessions []Cost  `json:"sessions"`
	Handles  []Cost  `json:"handles"`
	Tags     []Cost  `json:"tags"`
}

// Cost is the use of time by one of them.
type Cost struct {
	Name string  `json:"name"` // INDEX.ROUND; MAIN/SUB, none for time outside requests, or other; a tag
	Addr string  `json:"addr,omitempty"`
	Tag  string  `json:"tag,omitempty"`
	Busy float64 `json:"busy"`
}

// Handle has the counters of one handle.
type Handle struct {
	Name     string // Main/Sub, or other
	Requests uint64
	Errors   uint64
	Run      Hist
}

// Limit is a limit and how much of it is used.
type Limit struct {
	Flag    string // without its dashes
	Used    int64
	Max     int64
	Bytes   bool   // both are bytes
	Near    uint64 // times that it was nearly reached if Counted; else set by the Recorder from samples
	Counted bool
	Last    time.Time // the last of these
	Who     string    // the session concerned; "" for none
}

// Back is a backend of the handlers: the database, the cluster, the timers.
type Back struct {
	Name   string
	Down   string  // why it is unavailable; "" if it is available
	Values []Value // in display order
}

// Value is a number with a name. A Total only grows, and is shown with its rate.
type Value struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Total bool    `json:"total,omitempty"`
	Bad   bool    `json:"-"`              // it counts faults, and should not grow or should be 0
	Rate  float64 `json:"rate,omitempty"` // per second, over the last ten seconds; set by View
}

// Hist is a histogram, as buckets ordered by their bounds. Empty buckets may be omitted.
type Hist []Bucket

// Bucket counts values above the bound of the previous bucket and up to Le, in seconds.
type Bucket struct {
	Le float64 // +Inf for the last bucket
	N  uint64
}

// since returns h minus before.
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

// quantile returns an upper bound of the quantile q of h, in seconds; 0 if h is empty. Values above
// the last finite bound count as twice that bound.
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
