package timerbench

import (
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"millrace/timerwheel"
)

// A trial prepares one rival with n timers and returns what measures it once.
type trial func(b *testing.B, r Rival, n int) (round func() float64)

// Ratios measures rival against base by the process's CPU time (memory by
// bytes), turn about reps times so that both see the same machine, and reports
// the median ratio of neighbouring rounds, the least and the highest, and both
// medians.
func Ratios(b *testing.B, n, reps int, base, rival Rival) {
	for _, t := range []struct {
		name  string
		trial trial
	}{
		{"SetKill", setKillTrial}, {"Reset", resetTrial}, {"Memory", memoryTrial},
		{"Repeat", repeatTrial}, {"Burst", burstTrial},
	} {
		b.Run(t.name, func(b *testing.B) {
			if t.name == "Burst" {
				n = 300_000
			}
			ofBase, ofRival := t.trial(b, base, n), t.trial(b, rival, n)
			var bases, rivals, ratios []float64
			for b.Loop() {
				for range reps {
					x, y := ofBase(), ofRival()
					bases, rivals, ratios = append(bases, x), append(rivals, y), append(ratios, y/x)
				}
			}
			b.ReportMetric(median(ratios), "ratio")
			b.ReportMetric(slices.Min(ratios), "least")
			b.ReportMetric(slices.Max(ratios), "most")
			b.ReportMetric(median(bases), base.Name)
			b.ReportMetric(median(rivals), rival.Name)
		})
	}
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

// roundOps calls make one round of setKillTrial and resetTrial.
const roundOps = 200_000

// perOp returns the CPU time of op in ns.
func perOp(op func(i int)) func() float64 {
	i := 0
	return func() float64 {
		c := CPU()
		for range roundOps {
			op(i)
			i++
		}
		return float64(CPU()-c) / roundOps
	}
}

func setKillTrial(b *testing.B, r Rival, n int) func() float64 {
	return perOp(setKill(filled(b, r, n), n))
}

func resetTrial(b *testing.B, r Rival, n int) func() float64 {
	return perOp(reset(filled(b, r, n), n))
}

func memoryTrial(_ *testing.B, r Rival, n int) func() float64 {
	return func() float64 { return memory(r, n) }
}

func repeatTrial(_ *testing.B, r Rival, n int) func() float64 {
	return func() float64 {
		cpu, fired := repeat(r, n)
		return float64(cpu) / float64(max(fired, 1))
	}
}

func burstTrial(_ *testing.B, r Rival, n int) func() float64 {
	return func() float64 {
		cpu, _ := burst(r, n)
		return float64(cpu) / float64(n)
	}
}

// setKill sets one more timer and kills it.
func setKill(t Timers, n int) func(i int) {
	delay := delays(n)
	return func(i int) {
		id := timerwheel.TimerID(n + i%n)
		t.SetTimer(id, delay(i), 1, nothing)
		if !t.KillTimer(id) {
			panic("KillTimer: got false")
		}
	}
}

// reset sets live timers anew, as an idle timeout does for each packet.
func reset(t Timers, n int) func(i int) {
	return func(i int) {
		// A large stride: neither rival has the timer in a cache.
		t.SetTimer(timerwheel.TimerID(i*7919%n), 11*time.Minute, 1, nothing)
	}
}

// memory returns the heap that each of n timers takes.
func memory(r Rival, n int) float64 {
	delay := delays(n)
	p := NewPool()
	t := r.Make(p)
	before := heap()
	for i := range n {
		t.SetTimer(timerwheel.TimerID(i), delay(i), 1, nothing)
	}
	bytes := heap() - before
	runtime.KeepAlive(delay)
	t.Close()
	p.Close()
	return float64(bytes) / float64(n)
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// repeatFor is how long repeat measures, when the timers have been firing for
// settleFor: a rival may go over to another way of doing it.
const (
	repeatFor = 3 * time.Second
	settleFor = time.Second
)

// repeat lets n timers repeat, at most 100,000 firings a second, and returns
// the process's CPU time and the firings.
func repeat(r Rival, n int) (cpu time.Duration, count int64) {
	period := max(time.Second, time.Second*time.Duration(n)/100_000)
	var fired atomic.Int64
	p := NewPool()
	t := r.Make(p)
	fn := func(timerwheel.Firing) { fired.Add(1) }
	spread(n, period, func(i int) { t.SetTimer(timerwheel.TimerID(i), period, 0, fn) })
	runtime.GC()
	<-time.After(settleFor)
	c, f := CPU(), fired.Load()
	<-time.After(repeatFor)
	cpu, count = CPU()-c, fired.Load()-f
	t.Close()
	p.Close()
	return cpu, count
}

// spread calls set n times, evenly over one period.
func spread(n int, period time.Duration, set func(int)) {
	const step = 2 * time.Millisecond
	steps := int(period / step)
	begin := time.Now()
	for k := range steps {
		for i := k; i < n; i += steps {
			set(i)
		}
		<-time.After(time.Until(begin.Add(step * time.Duration(k+1))))
	}
}

// burst has n timers fire at one instant and returns the process's CPU time
// from then until all have run, and how long that took.
func burst(r Rival, n int) (cpu, wall time.Duration) {
	p := NewPool()
	t := r.Make(p)
	var left atomic.Int64
	left.Store(int64(n))
	done := make(chan struct{})
	fn := func(timerwheel.Firing) {
		if left.Add(-1) == 0 {
			close(done)
		}
	}
	at := time.Now().Add(2 * time.Second)
	for i := range n {
		t.SetTimer(timerwheel.TimerID(i), time.Until(at), 1, fn)
	}
	runtime.GC()
	<-time.After(time.Until(at.Add(-50 * time.Millisecond)))
	c := CPU()
	<-done
	cpu, wall = CPU()-c, time.Since(at)
	t.Close()
	p.Close()
	return cpu, wall
}
