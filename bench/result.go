package bench

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"millrace/internal/userfile"
)

// Run is one measured window of one target: a line of a results file.
type Run struct {
	Case   string    `json:"case"`
	Target string    `json:"target"`
	Rep    int       `json:"rep"` // runs of one repetition were interleaved and can be paired
	At     time.Time `json:"at"`

	Skipped string `json:"skipped,omitempty"` // why the target was skipped in this case
	Error   string `json:"error,omitempty"`   // what went wrong; the figures then mean nothing

	Seconds  float64 `json:"seconds,omitempty"`  // length of the window
	Messages uint64  `json:"messages,omitempty"` // in the window; see Workload.Unit
	Rate     float64 `json:"rate,omitempty"`     // messages a second
	Verified uint64  `json:"verified,omitempty"` // replies checked byte for byte, warm-up included
	Lost     int     `json:"lost,omitempty"`     // requests never answered

	CPU       *CPU      `json:"cpu,omitempty"`     // the server's, that of all nodes together; nil when it cannot be read
	Bus       *CPU      `json:"bus,omitempty"`     // that of the NATS server that the nodes share
	Memory    *Memory   `json:"memory,omitempty"`  // the server's
	Runtime   *Runtime  `json:"runtime,omitempty"` // the server's Go runtime
	Generator Generator `json:"generator"`         // the load generator's own cost
	Latency   *Latency  `json:"latency,omitempty"` // of the main stream
	Streams   []Stream  `json:"streams,omitempty"` // mixed: every kind of traffic
	Offered   float64   `json:"offered,omitempty"` // open loop: requests a second that were due
	LagP99    float64   `json:"lag_p99,omitempty"` // open loop: µs that the generator itself was late
	Bottle    bool      `json:"bottle,omitempty"`  // the generator was the bottleneck

	Ramp      string `json:"ramp,omitempty"`      // the Ramp that this is a step of
	Saturated string `json:"saturated,omitempty"` // why this step was too much
}

func newRun(t Target, work Workload) Run {
	return Run{Case: work.String(), Target: t.Name, At: time.Now().UTC().Truncate(time.Millisecond), Offered: work.Rate}
}

// with records how a run ended.
func (run Run) with(err error) Run {
	if skip, ok := errors.AsType[errSkipped](err); ok {
		run.Skipped = skip.reason
	} else if err != nil {
		run.Error = err.Error()
	}
	return run
}

// errSkipped says why a target does not take part.
type errSkipped struct{ reason string }

func (e errSkipped) Error() string { return e.reason }

// CPU is the server's CPU time in the window, in microseconds per message.
type CPU struct {
	PerMessage float64 `json:"per_message"`
	User       float64 `json:"user"`
	System     float64 `json:"system"`
	Busy       float64 `json:"busy"` // processors in use, 1 = one whole
}

// Memory is the server's resident size in bytes.
type Memory struct {
	RSS       int64   `json:"rss"`                  // at the end of the window
	PerIdle   float64 `json:"per_idle,omitempty"`   // idle: a connection's share before its first echo
	PerEchoed float64 `json:"per_echoed,omitempty"` // idle: and after it
}

// Runtime is what a Go server reports about itself.
type Runtime struct {
	Goroutines       int     `json:"goroutines"`
	MallocsPerMsg    float64 `json:"mallocs_per_message"`
	GCCycles         uint64  `json:"gc"`
	GCPauseMicros    float64 `json:"gc_pause_us"`
	HeapAtEndOfBytes uint64  `json:"heap"`
}

// Generator is the cost of the load itself.
type Generator struct {
	Processes  int     `json:"processes"`
	PerMessage float64 `json:"per_message"` // µs of its CPU
	Busy       float64 `json:"busy"`        // processors in use
}

// Latency is a distribution in microseconds.
type Latency struct {
	Min    float64   `json:"min"`
	Mean   float64   `json:"mean"`
	Max    float64   `json:"max"`
	Points []float64 `json:"points"` // at quantiles
}

// quantiles are where a Latency's Points lie, in percent.
var quantiles = []float64{10, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 99.95, 99.99, 99.999}

// At returns the latency at a percentage that is one of 10, 25, 50, 75, 90, 95, 99, 99.5, 99.9,
// 99.95, 99.99 and 99.999; 0 and 100 are Min and Max.
func (l *Latency) At(percent float64) (float64, bool) {
	switch percent {
	case 0:
		return l.Min, true
	case 100:
		return l.Max, true
	}
	for i, q := range quantiles {
		if q == percent && i < len(l.Points) {
			return l.Points[i], true
		}
	}
	return 0, false
}

func (s *stream) latency() *Latency {
	h := s.hist
	if h.TotalCount() == 0 {
		return nil
	}
	l := &Latency{Min: float64(h.Min()) / 1e3, Mean: h.Mean() / 1e3, Max: float64(h.Max()) / 1e3}
	for _, q := range quantiles {
		l.Points = append(l.Points, float64(h.ValueAtQuantile(q))/1e3)
	}
	return l
}

// Stream is one kind of traffic of a mixed run.
type Stream struct {
	Name     string   `json:"name"`
	Messages uint64   `json:"messages"`
	Rate     float64  `json:"rate"`
	Latency  *Latency `json:"latency,omitempty"`
}

// Results is a results file: a header line and a line a run.
type Results struct {
	Header Header
	Runs   []Run
}

// ErrFormat: a results file of another format.
var ErrFormat = errors.New("bench: not a results file of this version")

// WriteJSON writes r as JSON lines.
func (r *Results) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	if err := enc.Encode(r.Header); err != nil {
		return fmt.Errorf("bench: write results: %w", err)
	}
	for _, run := range r.Runs {
		if err := enc.Encode(run); err != nil {
			return fmt.Errorf("bench: write results: %w", err)
		}
	}
	return nil
}

// ReadJSON reads what WriteJSON or a journal wrote; a truncated last line is ignored.
func ReadJSON(rd io.Reader) (*Results, error) {
	lines := bufio.NewScanner(rd)
	lines.Buffer(nil, 16<<20)
	var r Results
	var cut error // an invalid line: accepted only as the last one, written in part when the suite was killed
	for n := 0; lines.Scan(); n++ {
		if cut != nil {
			return nil, cut
		}
		if n == 0 {
			if err := json.Unmarshal(lines.Bytes(), &r.Header); err != nil || r.Header.Format != resultFormat {
				return nil, fmt.Errorf("%w (header %.60q)", ErrFormat, lines.Text())
			}
			continue
		}
		var run Run
		if err := json.Unmarshal(lines.Bytes(), &run); err != nil {
			cut = fmt.Errorf("bench: results, line %d: %w", n+1, err)
			continue
		}
		r.Runs = append(r.Runs, run)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("bench: read results: %w", err)
	}
	if r.Header.Format == 0 {
		return nil, fmt.Errorf("%w (it is empty)", ErrFormat)
	}
	return &r, nil
}

// maxResults is how long a results file may be, in bytes.
const maxResults = 64 << 20

// Load reads a results file.
func Load(path string) (*Results, error) {
	b, err := userfile.Read(path, maxResults)
	if e := (*fs.PathError)(nil); errors.As(err, &e) {
		err = e.Err
	}
	if err != nil {
		return nil, fmt.Errorf("bench: %s: %w", path, err)
	}
	r, err := ReadJSON(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}
