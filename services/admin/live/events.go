package live

import (
	"slices"
	"time"
)

// maxEvents is how many events are kept.
const maxEvents = 200

// Stalls and near misses are logged one by one. As many can occur at once, they may fill at most
// half of the log, so that they don't displace rare events.
const (
	Stalled = "stall"
	Near    = "near"

	maxNoted = maxEvents / 2
)

func noted(kind string) bool { return kind == Stalled || kind == Near }

// The levels of findings and events.
const (
	Info = "info"
	Warn = "warn"
	Bad  = "bad"
)

// Event is a line of the log.
type Event struct {
	Seq   uint64 `json:"seq"`
	At    int64  `json:"at"` // time of the first one, in Unix milliseconds
	Level string `json:"level"`
	Kind  string `json:"kind"`
	Text  string `json:"text"`
	N     int    `json:"n"` // number of consecutive repetitions
}

// events is a ring of the most recent events.
type events struct {
	seq  uint64
	list []Event
}

// add appends an event. A repetition of the last event only increments its count, and counts as
// new.
func (e *events) add(at time.Time, level, kind, text string) {
	e.seq++
	if n := len(e.list); n > 0 {
		last := &e.list[n-1]
		if last.Level == level && last.Kind == kind && last.Text == text {
			last.N++
			last.Seq = e.seq
			return
		}
	}
	if noted(kind) && e.noted() >= maxNoted {
		i := slices.IndexFunc(e.list, func(x Event) bool { return noted(x.Kind) })
		e.list = slices.Delete(e.list, i, i+1)
	}
	if len(e.list) == maxEvents {
		copy(e.list, e.list[1:])
		e.list = e.list[:maxEvents-1]
	}
	e.list = append(e.list, Event{Seq: e.seq, At: at.UnixMilli(), Level: level, Kind: kind, Text: text, N: 1})
}

// noted returns how many stalls and near misses there are.
func (e *events) noted() (n int) {
	for i := range e.list {
		if noted(e.list[i].Kind) {
			n++
		}
	}
	return n
}
