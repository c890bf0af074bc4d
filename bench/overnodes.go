package bench

// noNodes is the reason for skipping a target in a case over several nodes.
const noNodes = "it is no node of several"

// overNodes has the cases over several nodes, with the CPU used by NATS, and a comparison with the
// same case on one node.
func (r *Results) overNodes() section {
	s := section{
		Title: "Over several nodes", Left: 2,
		Text: "CPU a message: of all nodes together, and of the NATS server that they share; x n1 is the nodes' as a multiple of " +
			"the same target's on one node, in the same repetition.",
		Heads: []string{"case", "target", "nodes", "NATS", "rate", "p50", "p99", "x n1", "quartiles"},
	}
	for _, name := range r.Header.Cases {
		w, err := ParseWorkload(name)
		if err != nil || w.Nodes == 0 {
			continue
		}
		alone := w
		alone.Nodes = 1
		for _, t := range r.Header.Targets {
			runs := r.pick(name, t.Name)
			bus := collect(runs, func(r *Run) (float64, bool) { return cpuOf(r.Bus) })
			if bus.N == 0 {
				continue
			}
			c := newCell(name, t.Name, runs, nil)
			row := []string{name, t.Name, formatMicros(c.Value.Median), formatMicros(bus.Median), formatCount(c.Rate.Median) + "/s",
				formatMicros(c.P50.Median), formatMicros(c.P99.Median), "", ""}
			if w.Nodes > 1 {
				row = append(row[:7], ratioCells(spread(pairedRatios(runs, r.pick(alone.String(), t.Name), MetricCPU)))...)
			}
			s.Rows = append(s.Rows, row)
		}
	}
	return s
}

func cpuOf(c *CPU) (float64, bool) {
	if c == nil {
		return 0, false
	}
	return c.PerMessage, true
}
