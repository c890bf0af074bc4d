package timerbench

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"millrace/timerwheel"
)

// Sizes are the numbers of outstanding timers that are measured.
var (
	Sizes      = []int{1_000, 100_000}
	LargeSizes = []int{1_000_000, 5_000_000}
)

// Run runs every benchmark for every rival, rivals side by side.
func Run(b *testing.B, sizes []int, rivals ...Rival) {
	for _, n := range sizes {
		all := func(name string, run func(*testing.B, Rival, int)) {
			for _, r := range rivals {
				if r.Max != 0 && n > r.Max {
					continue
				}
				b.Run(fmt.Sprintf("%s/n=%d/%s", name, n, r.Name), func(b *testing.B) { run(b, r, n) })
			}
		}
		all("SetKill", SetKill)
		all("Reset", Reset)
		all("Memory", Memory)
		all("Repeat", Repeat)
	}
	for _, r := range rivals {
		b.Run("Burst/n=300000/"+r.Name, func(b *testing.B) { Burst(b, r, 300_000) })
	}
	for _, rate := range []int{20_000, 200_000} {
		for _, r := range rivals {
			if !r.Coarse {
				b.Run(fmt.Sprintf("Lateness/rate=%d/%s", rate, r.Name), func(b *testing.B) { Lateness(b, r, rate) })
			}
		}
	}
}

// delays spreads n timers over ten minutes, in no order.
func delays(n int) func(int) time.Duration {
	rng := rand.New(rand.NewPCG(1, 2))
	d := make([]time.Duration, min(n, 1<<16))
	for i := range d {
		d[i] = time.Minute + time.Duration(rng.Int64N(int64(9*time.Minute)))
	}
	return func(i int) time.Duration { return d[i%len(d)] }
}

func nothing(timerwheel.Firing) {}

// filled returns a rival's timers with n outstanding.
func filled(b *testing.B, r Rival, n int) Timers {
	b.Helper()
	p := NewPool()
	t := r.Make(p)
	b.Cleanup(func() { t.Close(); p.Close() })
	delay := delays(n)
	for i := range n {
		if err := t.SetTimer(timerwheel.TimerID(i), delay(i), 1, nothing); err != nil {
			b.Fatal(err)
		}
	}
	runtime.GC()
	return t
}

// SetKill sets one more timer and kills it.
func SetKill(b *testing.B, r Rival, n int) { each(b, setKill(filled(b, r, n), n)) }

// Reset sets live timers anew, as an idle timeout does for each packet.
func Reset(b *testing.B, r Rival, n int) { each(b, reset(filled(b, r, n), n)) }

func each(b *testing.B, op func(i int)) {
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; b.Loop(); i++ {
		op(i)
	}
}

// Memory is the heap that n timers take.
func Memory(b *testing.B, r Rival, n int) {
	var bytes float64
	for b.Loop() {
		bytes = memory(r, n)
	}
	b.ReportMetric(bytes, "B/timer")
}

// Repeat lets n timers repeat, at most 100,000 firings a second, and reports
// the process's CPU for each firing.
func Repeat(b *testing.B, r Rival, n int) {
	var cpu time.Duration
	var count int64
	for b.Loop() {
		c, f := repeat(r, n)
		cpu, count = cpu+c, count+f
	}
	if count == 0 {
		b.Fatal("nothing fired")
	}
	b.ReportMetric(float64(cpu)/float64(count), "cpu-ns/firing")
	b.ReportMetric(float64(count)/float64(b.N)/repeatFor.Seconds(), "firings/s")
}

// Burst has n timers fire at one instant and reports the process's CPU from
// then until all have run.
func Burst(b *testing.B, r Rival, n int) {
	var cpu, wall time.Duration
	for b.Loop() {
		c, w := burst(r, n)
		cpu, wall = cpu+c, wall+w
	}
	b.ReportMetric(float64(cpu)/float64(b.N)/float64(n), "cpu-ns/timer")
	b.ReportMetric(float64(wall.Microseconds())/float64(b.N)/1000, "ms-to-last")
}

// Lateness lets rate timers repeat each second and reports how late their
// callbacks begin.
func Lateness(b *testing.B, r Rival, rate int) {
	const seconds = 3
	var all []int64
	for b.Loop() {
		p := NewPool()
		t := r.Make(p)
		base := time.Now()
		late := make([]int64, rate*seconds)
		var at, on atomic.Int64
		spread(rate, time.Second, func(i int) {
			set := time.Since(base)
			t.SetTimer(timerwheel.TimerID(i), time.Second, 0, func(f timerwheel.Firing) {
				d := time.Since(base) - set - time.Duration(f.N)*time.Second
				if k := at.Add(on.Load()); on.Load() == 1 && k <= int64(len(late)) {
					late[k-1] = int64(d)
				}
			})
		})
		runtime.GC()
		<-time.After(300 * time.Millisecond)
		on.Store(1)
		<-time.After(seconds * time.Second)
		on.Store(0)
		t.Close()
		p.Close()
		all = append(all, late[:min(at.Load(), int64(len(late)))]...)
	}
	slices.Sort(all)
	q := func(f float64) float64 { return float64(all[int(f*float64(len(all)-1))]) / 1e6 }
	b.ReportMetric(q(0.5), "p50-ms")
	b.ReportMetric(q(0.99), "p99-ms")
	b.ReportMetric(q(1), "max-ms")
}
