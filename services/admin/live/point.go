package live

import "time"

// Point is one second of the history. Rates are per second, times in milliseconds.
type Point struct {
	Seq      uint64  `json:"seq"`
	Sessions int     `json:"sessions"`
	Accepts  float64 `json:"accepts"`
	Closes   float64 `json:"closes"`
	Refused  float64 `json:"refused"`
	Frames   float64 `json:"frames"` // received
	BytesIn  float64 `json:"bytes_in"`
	BytesOut float64 `json:"bytes_out"`
	Errors   float64 `json:"errors"` // ERROR frames
	WaitP50  float64 `json:"wait_p50"`
	WaitP99  float64 `json:"wait_p99"`
	RunP50   float64 `json:"run_p50"` // time of handlers
	RunP99   float64 `json:"run_p99"`
	CPU      float64 `json:"cpu"`    // number of CPUs in use
	Memory   int     `json:"memory"` // bytes held by sessions and broadcasts
	Heap     uint64  `json:"heap"`   // bytes of the heap
	Paused   float64 `json:"paused"` // pauses of reading, per second
}

// point returns what happened between two samples.
func point(seq uint64, a, b *Sample) Point {
	d := span{a, b}
	wait, run := b.Wait.since(a.Wait), runs(b).since(runs(a))
	return Point{
		Seq: seq, Sessions: b.Engine.Conns,
		Accepts: d.rate(a.Engine.Accepts, b.Engine.Accepts), Closes: d.rate(sum(a.Engine.Closes), sum(b.Engine.Closes)),
		Refused: d.rate(sum(a.Engine.Refused), sum(b.Engine.Refused)), Frames: d.rate(a.Engine.FramesIn, b.Engine.FramesIn),
		BytesIn: d.rate(a.Engine.BytesIn, b.Engine.BytesIn), BytesOut: d.rate(a.Engine.BytesOut, b.Engine.BytesOut),
		Errors:  d.rate(a.Engine.Errors, b.Engine.Errors),
		WaitP50: millis(wait.quantile(0.5)), WaitP99: millis(wait.quantile(0.99)),
		RunP50: millis(run.quantile(0.5)), RunP99: millis(run.quantile(0.99)),
		CPU: d.of(float64(b.CPU-a.CPU) / float64(time.Second)), Memory: b.Engine.Memory, Heap: b.Heap, Paused: d.rate(pauses(a), pauses(b)),
	}
}

// span is the time between two samples of the same process.
type span struct{ a, b *Sample }

func (d span) seconds() float64 { return d.b.At.Sub(d.a.At).Seconds() }

// of returns n per second of the span.
func (d span) of(n float64) float64 {
	if s := d.seconds(); s > 0 {
		return max(n, 0) / s
	}
	return 0
}

// rate returns how fast a counter grew. A counter that decreased belongs to a new server.
func (d span) rate(a, b uint64) float64 {
	if b < a {
		return 0
	}
	return d.of(float64(b - a))
}

func millis(seconds float64) float64 { return seconds * 1000 }

func sum[K comparable](m map[K]uint64) (n uint64) {
	for _, v := range m {
		n += v
	}
	return n
}

func pauses(s *Sample) (n uint64) {
	for i := range s.Engine.Loops {
		n += s.Engine.Loops[i].Pauses
	}
	return n
}

// runs returns the histogram of all handles together.
func runs(s *Sample) Hist {
	var all Hist
	for i := range s.Handles {
		all = merge(all, s.Handles[i].Run)
	}
	return all
}

func merge(a, b Hist) Hist {
	if len(a) == 0 {
		return b
	}
	out := make(Hist, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		switch {
		case a[0].Le < b[0].Le:
			out, a = append(out, a[0]), a[1:]
		case a[0].Le > b[0].Le:
			out, b = append(out, b[0]), b[1:]
		default:
			out = append(out, Bucket{a[0].Le, a[0].N + b[0].N})
			a, b = a[1:], b[1:]
		}
	}
	return append(append(out, a...), b...)
}
