package dbbench

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Report is the outcome of one cell: medians, and the spread of the ratio.
type Report struct {
	Cell               Config
	Millrace, PGXPool  Round   // medians, field by field
	Ratio              float64 // of queries a second, median over the rounds
	RatioMin, RatioMax float64
	CPURatio           float64 // of CPU per query, median over the rounds
	Rounds             int
}

func (r Report) String() string {
	return fmt.Sprintf("%s outstanding=%d rate=%d conns=%d: %.0f/s against %.0f/s = %.2fx (%.2f to %.2f, n=%d); cpu %v against %v = %.2fx; allocs %.1f against %.1f; p50 %v/%v p99 %v/%v; %.1f a write",
		r.Cell.Workload, r.Cell.Outstanding, r.Cell.Rate, r.Cell.Conns, r.Millrace.PerSecond, r.PGXPool.PerSecond,
		r.Ratio, r.RatioMin, r.RatioMax, r.Rounds, r.Millrace.CPU, r.PGXPool.CPU, r.CPURatio,
		r.Millrace.Allocs, r.PGXPool.Allocs,
		r.Millrace.P50, r.PGXPool.P50, r.Millrace.P99, r.PGXPool.P99, r.Millrace.Burst)
}

// Compare runs both sides in turn, rounds times, the order swapped each time.
func Compare(ctx context.Context, cfg Config, rounds int) (Report, error) {
	cfg = cfg.withDefaults()
	var ours, theirs []Round
	for i := range rounds {
		sides := []func(context.Context, Config) (Round, error){Millrace, PGXPool}
		got := [2]Round{}
		for k := range sides {
			side := (k + i) % 2
			var err error
			if got[side], err = sides[side](ctx, cfg); err != nil {
				return Report{}, err
			}
		}
		ours, theirs = append(ours, got[0]), append(theirs, got[1])
	}
	return summarise(cfg, ours, theirs), nil
}

func summarise(cfg Config, ours, theirs []Round) Report {
	ratios, cpu := make([]float64, len(ours)), make([]float64, len(ours))
	for i := range ours {
		ratios[i] = ours[i].PerSecond / theirs[i].PerSecond
		cpu[i] = float64(ours[i].CPU) / float64(theirs[i].CPU)
	}
	return Report{Cell: cfg, Millrace: medians(ours), PGXPool: medians(theirs), Rounds: len(ours),
		Ratio: median(ratios), RatioMin: slices.Min(ratios), RatioMax: slices.Max(ratios), CPURatio: median(cpu)}
}

func medians(rs []Round) Round {
	pick := func(f func(Round) float64) float64 {
		vs := make([]float64, len(rs))
		for i, r := range rs {
			vs[i] = f(r)
		}
		return median(vs)
	}
	return Round{
		Queries:   uint64(pick(func(r Round) float64 { return float64(r.Queries) })),
		PerSecond: pick(func(r Round) float64 { return r.PerSecond }),
		CPU:       time.Duration(pick(func(r Round) float64 { return float64(r.CPU) })),
		Allocs:    pick(func(r Round) float64 { return r.Allocs }),
		P50:       time.Duration(pick(func(r Round) float64 { return float64(r.P50) })),
		Burst:     pick(func(r Round) float64 { return r.Burst }),
		P99:       time.Duration(pick(func(r Round) float64 { return float64(r.P99) })),
	}
}

func median(vs []float64) float64 {
	vs = slices.Clone(vs)
	slices.Sort(vs)
	n := len(vs)
	if n%2 == 1 {
		return vs[n/2]
	}
	return (vs[n/2-1] + vs[n/2]) / 2
}

func quantiles(ds []time.Duration) (p50, p99 time.Duration) {
	if len(ds) == 0 {
		return 0, 0
	}
	slices.Sort(ds)
	return ds[len(ds)/2], ds[min(len(ds)-1, len(ds)*99/100)]
}
