package bench

// Metric is the quantity by which a case is compared: lower is better.
type Metric string

const (
	MetricCPU    Metric = "cpu"    // the server's CPU, µs a message
	MetricMemory Metric = "memory" // RSS of an idle connection, bytes
	MetricTime   Metric = "time"   // wall time a message, µs: only where the server's CPU cannot be read
	MetricP50    Metric = "p50"    // latency, µs
	MetricP99    Metric = "p99"
	MetricRate   Metric = "rate" // seconds a message, as the inverse of the rate
)

// of returns r's value of m; false when it has none.
func (m Metric) of(r *Run) (float64, bool) {
	if r.Error != "" || r.Skipped != "" {
		return 0, false
	}
	switch m {
	case MetricCPU:
		if r.CPU != nil {
			return r.CPU.PerMessage, r.CPU.PerMessage > 0
		}
	case MetricMemory:
		if r.Memory != nil {
			return r.Memory.PerIdle, r.Memory.PerIdle > 0
		}
	case MetricTime, MetricRate:
		if r.Rate > 0 {
			return 1e6 / r.Rate, true
		}
	case MetricP50:
		if r.Latency != nil {
			return r.Latency.At(50)
		}
	case MetricP99:
		if r.Latency != nil {
			return r.Latency.At(99)
		}
	}
	return 0, false
}

// metricOf is the metric of a case's runs.
func metricOf(runs []Run) Metric {
	for i := range runs {
		if _, ok := MetricCPU.of(&runs[i]); ok {
			return MetricCPU
		}
		if _, ok := MetricMemory.of(&runs[i]); ok {
			return MetricMemory
		}
	}
	return MetricTime
}

// Cell summarizes all runs of one case and target.
type Cell struct {
	Case    string
	Target  string
	Metric  Metric
	Runs    int    // that have figures
	Failed  int    // that ended in an error
	Error   string // one of these errors
	Skipped string
	Bottle  int // runs in which the generator was the bottleneck

	Value     Spread // of Metric
	Ratio     Spread // of Metric to the base's run of the same repetition; N = 0 without a base
	Rate      Spread
	P50       Spread // µs
	P99       Spread
	P999      Spread
	User      Spread // µs of CPU a message
	System    Spread
	Busy      Spread // processors that the server used
	Offered   Spread // open loop: requests a second that were due
	Lag       Spread // open loop: µs that the generator itself was late, at p99
	P50Ratio  Spread // open loop: to the base's run of the same repetition
	P99Ratio  Spread
	RSS       Spread // bytes
	Echoed    Spread // bytes a connection after one echo, idle only
	Generator Spread // µs of the generator's CPU a message
	Mallocs   Spread // allocations a message
	Curve     []Spread
}

// Cells summarizes r in the order of its cases and targets.
func (r *Results) Cells() []Cell {
	var out []Cell
	for _, c := range r.Header.Cases {
		for _, t := range r.Header.Targets {
			runs := r.pick(c, t.Name)
			if len(runs) > 0 {
				out = append(out, newCell(c, t.Name, runs, r.pick(c, r.Header.Base)))
			}
		}
	}
	return out
}

func (r *Results) pick(name, target string) []Run {
	var out []Run
	for _, run := range r.Runs {
		if run.Case == name && run.Target == target && run.Ramp == "" {
			out = append(out, run)
		}
	}
	return out
}

func newCell(name, target string, runs, base []Run) Cell {
	c := Cell{Case: name, Target: target, Metric: metricOf(runs)}
	for _, r := range runs {
		switch {
		case r.Error != "":
			c.Failed++
			c.Error = r.Error
		case r.Skipped != "":
			c.Skipped = r.Skipped
		default:
			c.Runs++
		}
		if r.Bottle {
			c.Bottle++
		}
	}
	c.Value = collect(runs, c.Metric.of)
	if len(base) > 0 {
		c.Ratio = spread(pairedRatios(runs, base, c.Metric))
	}
	c.fill(runs)
	if len(base) > 0 && c.Offered.N > 0 {
		c.P50Ratio, c.P99Ratio = spread(pairedRatios(runs, base, MetricP50)), spread(pairedRatios(runs, base, MetricP99))
	}
	return c
}

func (c *Cell) fill(runs []Run) {
	at := func(q float64) Spread {
		return collect(runs, func(r *Run) (float64, bool) {
			if r.Latency == nil {
				return 0, false
			}
			return r.Latency.At(q)
		})
	}
	c.P50, c.P99, c.P999 = at(50), at(99), at(99.9)
	for _, q := range quantiles {
		c.Curve = append(c.Curve, at(q))
	}
	c.Rate = collect(runs, func(r *Run) (float64, bool) { return r.Rate, r.Rate > 0 })
	c.Offered = collect(runs, func(r *Run) (float64, bool) { return r.Offered, r.Offered > 0 })
	c.Lag = collect(runs, func(r *Run) (float64, bool) { return r.LagP99, r.Offered > 0 })
	c.Busy = collect(runs, func(r *Run) (float64, bool) { return cpuPart(r, (*CPU).busy) })
	c.User = collect(runs, func(r *Run) (float64, bool) { return cpuPart(r, (*CPU).user) })
	c.System = collect(runs, func(r *Run) (float64, bool) { return cpuPart(r, (*CPU).system) })
	c.RSS = collect(runs, func(r *Run) (float64, bool) {
		if r.Memory == nil {
			return 0, false
		}
		return float64(r.Memory.RSS), true
	})
	c.Echoed = collect(runs, func(r *Run) (float64, bool) {
		if r.Memory == nil || r.Memory.PerEchoed == 0 {
			return 0, false
		}
		return r.Memory.PerEchoed, true
	})
	c.Generator = collect(runs, func(r *Run) (float64, bool) { return r.Generator.PerMessage, r.Generator.PerMessage > 0 })
	c.Mallocs = collect(runs, func(r *Run) (float64, bool) {
		if r.Runtime == nil || r.CPU == nil {
			return 0, false
		}
		return r.Runtime.MallocsPerMsg, true
	})
}

func (c *CPU) user() float64   { return c.User }
func (c *CPU) system() float64 { return c.System }
func (c *CPU) busy() float64   { return c.Busy }

func cpuPart(r *Run, part func(*CPU) float64) (float64, bool) {
	if r.CPU == nil {
		return 0, false
	}
	return part(r.CPU), true
}

// collect spreads what get finds in the runs that have figures.
func collect(runs []Run, get func(*Run) (float64, bool)) Spread {
	var xs []float64
	for i := range runs {
		if runs[i].Error != "" || runs[i].Skipped != "" {
			continue
		}
		if x, ok := get(&runs[i]); ok {
			xs = append(xs, x)
		}
	}
	return spread(xs)
}

// pairedRatios divides each run by the base's run of the same repetition.
func pairedRatios(runs, base []Run, m Metric) []float64 {
	var out []float64
	for i := range runs {
		x, ok := m.of(&runs[i])
		if !ok {
			continue
		}
		for j := range base {
			if y, ok := m.of(&base[j]); ok && base[j].Rep == runs[i].Rep && y > 0 {
				out = append(out, x/y)
				break
			}
		}
	}
	return out
}
