package bench

import (
	"slices"
	"time"
)

// accounts is the CPU used by the servers of a run.
type accounts struct{ nodes, bus usage }

// accounts reads them; they are zero if the servers' processes are unknown.
func (m *measurement) accounts() (a accounts, err error) {
	if !m.known() {
		return a, nil
	}
	for _, s := range m.srv.serving() {
		u, err := cpuUsage(s.pid)
		if err != nil {
			return a, err
		}
		a.nodes = a.nodes.add(u)
	}
	if m.srv.bus != nil {
		a.bus, err = cpuUsage(m.srv.bus.pid)
	}
	return a, err
}

// known reports whether the processes of all servers are known.
func (m *measurement) known() bool {
	return !slices.ContainsFunc(m.srv.serving(), func(s *server) bool { return s.pid == 0 })
}

// selfStats sums the statistics that the servers report about themselves.
func (m *measurement) selfStats() (sum selfStats, ok bool) {
	for _, s := range m.srv.serving() {
		st, err := s.ask()
		if err != nil {
			return selfStats{}, false
		}
		sum.add(st)
	}
	return sum, true
}

// resident returns the memory of all servers; nil if it can't be read.
func (m *measurement) resident() *Memory {
	var sum int64
	for _, s := range m.srv.serving() {
		rss, err := residentBytes(s.pid)
		if err != nil {
			return nil
		}
		sum += rss
	}
	return &Memory{RSS: sum}
}

func perMessage(u usage, wall time.Duration, n uint64) *CPU {
	micros := func(d time.Duration) float64 { return float64(d) / 1e3 / float64(n) }
	return &CPU{micros(u.total), micros(u.user), micros(u.system), float64(u.total) / float64(wall)}
}
