package bench

import (
	"fmt"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Histograms hold 100 ns to 100 s with three significant digits; what lies outside is clamped.
const (
	histLow  = 100
	histHigh = int64(100 * time.Second)
)

func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(histLow, histHigh, 3) }

// stream counts one kind of reply while the window is open.
type stream struct {
	name  string
	count uint64
	hist  *hdrhistogram.Histogram
}

func newStream(name string) *stream { return &stream{name: name, hist: newHistogram()} }

// record notes n replies that took d nanoseconds.
func (s *stream) record(d int64, n int) {
	s.count += uint64(n)
	s.measure(d, n)
}

// measure notes n latencies without counting replies.
func (s *stream) measure(d int64, n int) {
	_ = s.hist.RecordValues(min(max(d, histLow), histHigh), int64(n)) // in range after the clamp
}

// streamResult is a stream on its way from a generator process.
type streamResult struct {
	Name  string `json:"name"`
	Count uint64 `json:"count"`
	Hist  []byte `json:"hist"`
}

func (s *stream) result() (streamResult, error) {
	b, err := s.hist.Encode(hdrhistogram.V2CompressedEncodingCookieBase)
	if err != nil {
		return streamResult{}, fmt.Errorf("bench: encode histogram: %w", err)
	}
	return streamResult{s.name, s.count, b}, nil
}

// merge adds r to s.
func (s *stream) merge(r streamResult) error {
	h, err := hdrhistogram.Decode(r.Hist)
	if err != nil {
		return fmt.Errorf("bench: decode histogram: %w", err)
	}
	s.count += r.Count
	if dropped := s.hist.Merge(h); dropped > 0 {
		return fmt.Errorf("bench: %d latencies did not fit the histogram", dropped)
	}
	return nil
}
