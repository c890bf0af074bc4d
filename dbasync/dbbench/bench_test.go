package dbbench

import (
	"context"
	"flag"
	"fmt"
	"testing"
	"time"

	"millrace/dbasync/pgembed"
)

var (
	rounds = flag.Int("rounds", 5, "interleaved rounds per cell")
	span   = flag.Duration("span", 500*time.Millisecond, "length of one round of one side")
)

// BenchmarkLadder is the comparison with pgxpool: go test -bench Ladder -benchtime 1x.
func BenchmarkLadder(b *testing.B) {
	url := prepared(b)
	for _, n := range []int{1, 16, 64, 256, 1024} {
		cell(b, Config{URL: url, Outstanding: n})
	}
	for _, n := range []int{64, 256} {
		cell(b, Config{URL: url, Outstanding: n, Workload: Update})
	}
}

// BenchmarkGroup is the ladder with shared read transactions.
func BenchmarkGroup(b *testing.B) {
	url := prepared(b)
	for _, n := range []int{16, 64, 256, 1024} {
		cell(b, Config{URL: url, Outstanding: n, Group: true})
	}
}

// BenchmarkRate is latency on a fixed schedule.
func BenchmarkRate(b *testing.B) {
	url := prepared(b)
	for _, rate := range []int{20_000, 40_000} {
		cell(b, Config{URL: url, Rate: rate})
	}
}

// BenchmarkLimit is dbasync with 256 outstanding beside pgbench with 64 statements under one
// Sync, which waits for no single result: all in one transaction, and each in its own.
func BenchmarkLimit(b *testing.B) {
	srv := pgembed.ForTest(b, pgembed.Config{TCP: true})
	if err := Prepare(context.Background(), srv.URL()); err != nil {
		b.Fatal(err)
	}
	for _, cfg := range []Config{
		{OwnTx: true}, {Group: true}, {}, {Workload: Update, OwnTx: true},
	} {
		cfg.URL, cfg.Outstanding, cfg.Duration = srv.URL(), 256, time.Second
		b.Run(fmt.Sprintf("%v/own=%v/group=%v", cfg.Workload, cfg.OwnTx, cfg.Group), func(b *testing.B) {
			for b.Loop() {
				limit(b, cfg, srv.BinDir())
			}
		})
	}
}

func limit(b *testing.B, cfg Config, binDir string) {
	var limit, ours []Round
	for range *rounds {
		l, err := PGBench(context.Background(), binDir, cfg)
		if err != nil {
			b.Fatal(err)
		}
		o, err := Millrace(context.Background(), cfg)
		if err != nil {
			b.Fatal(err)
		}
		limit, ours = append(limit, l), append(ours, o)
	}
	rep := summarise(cfg, ours, limit)
	b.Logf("dbasync %.0f/s against pgbench %.0f/s = %.2fx (%.2f to %.2f)", rep.Millrace.PerSecond, rep.PGXPool.PerSecond, rep.Ratio, rep.RatioMin, rep.RatioMax)
	b.ReportMetric(rep.Ratio, "of-limit")
}

func cell(b *testing.B, cfg Config) {
	cfg.Duration = *span
	name := fmt.Sprintf("%v/outstanding=%d", cfg.Workload, cfg.Outstanding)
	if cfg.Rate > 0 {
		name = fmt.Sprintf("%v/rate=%d", cfg.Workload, cfg.Rate)
	}
	b.Run(name, func(b *testing.B) {
		for b.Loop() {
			rep, err := Compare(context.Background(), cfg, *rounds)
			if err != nil {
				b.Fatal(err)
			}
			b.Log(rep)
			b.ReportMetric(rep.Ratio, "x")
			b.ReportMetric(rep.CPURatio, "cpu-x")
			b.ReportMetric(rep.Millrace.PerSecond, "queries/s")
			b.ReportMetric(rep.Millrace.Allocs, "allocs/query")
		}
	})
}

func prepared(tb testing.TB) string {
	srv := pgembed.ForTest(tb, pgembed.Config{TCP: true})
	if err := Prepare(context.Background(), srv.URL()); err != nil {
		tb.Fatal(err)
	}
	return srv.URL()
}

// TestBothSidesAnswer runs each side for a moment.
func TestBothSidesAnswer(t *testing.T) {
	url := prepared(t)
	for _, cfg := range []Config{{Outstanding: 8}, {Outstanding: 8, Workload: Update}, {Rate: 500}, {Outstanding: 8, Group: true}} {
		cfg.URL, cfg.Warmup = url, 50*time.Millisecond
		var rep Report
		var err error
		for cfg.Duration = 100 * time.Millisecond; cfg.Duration < time.Minute; cfg.Duration *= 4 {
			if rep, err = Compare(context.Background(), cfg, 1); err == nil { // else the machine was too busy for one query
				break
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		if rep.Millrace.Queries == 0 || rep.PGXPool.Queries == 0 {
			t.Errorf("got %+v", rep)
		}
	}
}
