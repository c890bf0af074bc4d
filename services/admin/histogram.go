package admin

import (
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/proto"

	"millrace/internal/hist"
)

// histogram is a Prometheus metric: a native histogram with the buckets of package hist and, for
// the text format and older Prometheus servers, classic buckets, each four times as wide as the
// previous one.
type histogram struct {
	desc   *prometheus.Desc
	labels []*dto.LabelPair
	s      *hist.Snapshot
}

// Buckets of the text format: from 2^firstClassic to 2^lastClassic seconds.
const (
	firstClassic = -20
	lastClassic  = 6
)

func (h *histogram) Desc() *prometheus.Desc { return h.desc }

// Write implements prometheus.Metric.
func (h *histogram) Write(out *dto.Metric) error {
	sum := h.s.Sum.Seconds()
	n := h.s.Count()
	x := &dto.Histogram{SampleCount: &n, SampleSum: &sum, Schema: proto.Int32(3), ZeroThreshold: proto.Float64(prometheus.DefNativeHistogramZeroThreshold), ZeroCount: proto.Uint64(0)}
	at, seen := 0, uint64(0)
	for k := firstClassic; k <= lastClassic; k += 2 {
		for ; at <= k*hist.PerDoubling-hist.First; at++ {
			seen += h.s.Counts[at]
		}
		x.Bucket = append(x.Bucket, &dto.Bucket{CumulativeCount: proto.Uint64(seen), UpperBound: proto.Float64(hist.End(at - 1))})
	}
	next, last := int32(0), int64(0) // the bucket after the last span, and the last count
	for i, c := range h.s.Counts {
		if c == 0 {
			continue
		}
		index := int32(hist.First + i)
		if spans := x.PositiveSpan; len(spans) == 0 || index != next {
			x.PositiveSpan = append(spans, &dto.BucketSpan{Offset: proto.Int32(index - next), Length: proto.Uint32(0)})
		}
		*x.PositiveSpan[len(x.PositiveSpan)-1].Length++
		x.PositiveDelta = append(x.PositiveDelta, int64(c)-last)
		next, last = index+1, int64(c)
	}
	out.Label, out.Histogram = h.labels, x
	return nil
}
