package bench

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// window lengths and waits of a run.
type timing struct {
	warm, length time.Duration
}

const (
	connectWait = 60 * time.Second
	resultWait  = 30 * time.Second
	echoWait    = 30 * time.Second
)

// measurement is one run in progress.
type measurement struct {
	work    Workload
	timing  timing
	srv     *server
	gens    []*generator
	from    time.Time
	before  accounts
	own     selfStats
	hasOwn  bool
	restRSS int64 // idle: before the connections
	mayLose bool  // missing replies are not a failure
}

// session is a server that serves one workload after the other.
type session struct {
	target    Target
	srv       *server
	genCPUs   []int
	processes int
}

// openSession starts t for a workload, or for smaller ones of its kind.
func openSession(ctx context.Context, t Target, work Workload, pinned bool, processes int) (*session, error) {
	s := &session{target: t, processes: processes}
	var serverCPUs []int
	var err error
	if pinned {
		if serverCPUs, s.genCPUs, err = splitCPUs(); err != nil {
			return nil, err
		}
	}
	s.srv, err = startServer(ctx, t, work, pinned, serverCPUs)
	return s, err
}

func (s *session) close() { s.srv.stop() }

// measure runs one window of work against t with a fresh server.
func measure(ctx context.Context, t Target, work Workload, tm timing, pinned bool, processes int) Run {
	s, err := openSession(ctx, t, work, pinned, processes)
	if err != nil {
		return newRun(t, work).with(err)
	}
	defer s.close()
	return s.measure(ctx, work, tm, false)
}

// measure runs one window of work. In a ramp missing replies are a result, not a failure.
func (s *session) measure(ctx context.Context, work Workload, tm timing, ramp bool) Run {
	run := newRun(s.target, work)
	m := &measurement{work: work, timing: tm, srv: s.srv, mayLose: ramp}
	defer m.close()
	err := m.run(ctx, &run, s.processes, s.genCPUs)
	return run.with(err)
}

func (m *measurement) close() {
	for _, g := range m.gens {
		g.kill()
	}
}

func (m *measurement) run(ctx context.Context, run *Run, processes int, cpus []int) error {
	if err := m.noteRest(); err != nil {
		return err
	}
	if m.work.Nodes > 0 {
		if err := m.srv.meet(ctx); err != nil {
			return m.blame(err)
		}
	}
	if err := m.connect(processes, cpus); err != nil {
		return m.blame(err)
	}
	if m.work.Kind == Idle {
		return m.idle(run)
	}
	if err := m.window(ctx); err != nil {
		return m.blame(err)
	}
	return m.finish(run)
}

// blame reports the death of the server rather than its consequences for the generator.
func (m *measurement) blame(err error) error {
	select {
	case <-time.After(50 * time.Millisecond): // its exit may come after its sockets' end
	case <-m.srv.ended: // nil, so never, for a running server
	}
	for _, s := range m.srv.all() {
		err = errors.Join(s.died(), err)
	}
	return err
}

// connect starts the generators and waits until every connection is open.
func (m *measurement) connect(processes int, cpus []int) error {
	n := min(max(1, processes), m.work.Conns)
	if !m.work.multiProcess() {
		n = 1
	}
	addrs, flood, err := m.addresses()
	if err != nil {
		return err
	}
	first, halves := 0, 0
	for i := range n {
		mine := (m.work.Conns - first) / (n - i)
		spec := genSpec{
			Workload: m.work, Addrs: addrs, Names: m.srv.names, First: uint32(first + 1), Mine: mine,
			Share: float64(mine) / float64(m.work.Conns), Stall: stallAfter, Settle: settleAfter,
		}
		if m.work.Kind == Flood {
			spec.Flood, spec.Halves = flood, (m.work.Members-halves)/(n-i)
			halves += spec.Halves
		}
		g, err := startGenerator(spec, cpus)
		if err != nil {
			return err
		}
		m.gens = append(m.gens, g)
		first += mine
	}
	for _, g := range m.gens {
		if err := g.await(lineConnected, connectWait); err != nil {
			return err
		}
	}
	return nil
}

// addresses returns the addresses that the connections use in turn, and that of a flood.
func (m *measurement) addresses() (addrs []string, flood string, err error) {
	for _, d := range m.work.doors() {
		for _, s := range m.srv.serving() {
			a, err := addressOf(s.addrs, d)
			if err != nil {
				return nil, "", err
			}
			addrs = append(addrs, a)
		}
	}
	if m.work.Kind == Flood {
		flood, err = addressOf(m.srv.addrs, doorTLS)
	}
	return addrs, flood, err
}

func (m *measurement) tell(c byte) error {
	for _, g := range m.gens {
		if err := g.say(c); err != nil {
			return err
		}
	}
	return nil
}

// window runs warm-up and measurement.
func (m *measurement) window(ctx context.Context) error {
	if err := m.tell(cmdStart); err != nil {
		return err
	}
	if err := m.pass(ctx, m.timing.warm); err != nil {
		return err
	}
	m.own, m.hasOwn = m.selfStats()
	var err error
	if m.before, err = m.accounts(); err != nil {
		return err
	}
	m.from = time.Now()
	if err := m.tell(cmdMeasure); err != nil {
		return err
	}
	return m.pass(ctx, m.timing.length)
}

// pass waits for d unless a generator fails or ctx ends.
func (m *measurement) pass(ctx context.Context, d time.Duration) error {
	deadline := time.NewTimer(d)
	defer deadline.Stop()
	look := time.NewTicker(100 * time.Millisecond)
	defer look.Stop()
	for {
		select {
		case <-deadline.C:
			return m.gaveUp()
		case <-look.C:
			if err := m.gaveUp(); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (m *measurement) gaveUp() error {
	for _, g := range m.gens {
		res, early := g.early()
		if !early {
			continue
		}
		if err := res.verdict(); err != nil {
			return err
		}
		return errors.New("bench: a generator ended before its time")
	}
	return nil
}

// finish closes the window and collects the figures.
func (m *measurement) finish(run *Run) error {
	if err := m.tell(cmdEnd); err != nil {
		return m.blame(err)
	}
	end, err := m.accounts()
	if err != nil {
		return m.blame(err)
	}
	wall := time.Since(m.from)
	own, ok := m.selfStats()
	if m.known() {
		run.Memory = m.resident()
	}
	total, err := m.gather(run)
	if err != nil {
		return m.blame(err)
	}
	if total == 0 {
		return fmt.Errorf("bench: no %s in %v", m.work.Unit(), m.timing.length)
	}
	if m.known() {
		run.CPU = perMessage(end.nodes.sub(m.before.nodes), wall, total)
	}
	if m.srv.bus != nil {
		run.Bus = perMessage(end.bus.sub(m.before.bus), wall, total)
	}
	if ok && m.hasOwn {
		run.Runtime = &Runtime{
			Goroutines:       own.Goroutines,
			MallocsPerMsg:    float64(own.Mallocs-m.own.Mallocs) / float64(total),
			GCCycles:         own.GCCycles - m.own.GCCycles,
			GCPauseMicros:    float64(own.PauseNanos-m.own.PauseNanos) / 1e3,
			HeapAtEndOfBytes: own.HeapBytes,
		}
	}
	run.Bottle = bottleneck(run)
	return nil
}

// gather merges the generators' results into run and returns the messages.
func (m *measurement) gather(run *Run) (uint64, error) {
	var streams []*stream
	var lag *stream
	var cost time.Duration
	var nanos int64
	for _, g := range m.gens {
		res, err := g.result(resultWait)
		if err != nil {
			return 0, err
		}
		if streams, err = mergeStreams(streams, res.Streams); err != nil {
			return 0, err
		}
		if res.Lag != nil {
			lag = first(lag, newStream("lag"))
			if err := lag.merge(*res.Lag); err != nil {
				return 0, err
			}
		}
		cost += res.User + res.System
		nanos = max(nanos, res.Nanos)
		run.Lost += res.Lost
		run.Verified += res.Verified
	}
	m.describe(run, streams, lag, cost, nanos)
	if run.Lost > 0 && !m.mayLose {
		return 0, fmt.Errorf("bench: %d replies did not come within %v of the end", run.Lost, settleAfter)
	}
	return run.Messages, nil
}

func mergeStreams(into []*stream, results []streamResult) ([]*stream, error) {
	for i, r := range results {
		if i == len(into) {
			into = append(into, newStream(r.Name))
		}
		if err := into[i].merge(r); err != nil {
			return nil, err
		}
	}
	return into, nil
}

func first(a, b *stream) *stream {
	if a != nil {
		return a
	}
	return b
}

func (m *measurement) describe(run *Run, streams []*stream, lag *stream, cost time.Duration, nanos int64) {
	main := streams[0]
	run.Seconds = float64(nanos) / 1e9
	run.Messages = main.count
	run.Rate = float64(main.count) / run.Seconds
	run.Latency = main.latency()
	run.Generator = Generator{Processes: len(m.gens), Busy: float64(cost) / float64(nanos)}
	if main.count > 0 {
		run.Generator.PerMessage = float64(cost) / 1e3 / float64(main.count)
	}
	if lag != nil && lag.count > 0 {
		run.LagP99 = float64(lag.hist.ValueAtQuantile(99)) / 1e3
	}
	if len(streams) == 1 {
		return
	}
	for _, s := range streams {
		run.Streams = append(run.Streams, Stream{s.name, s.count, float64(s.count) / run.Seconds, s.latency()})
	}
}

// bottleneck reports whether the generators used nearly all the CPU time available to them while
// the server had some left, or an open loop could not keep its schedule.
func bottleneck(run *Run) bool {
	if run.Offered > 0 {
		return run.LagP99 > 1000
	}
	full := run.Generator.Busy > 0.95*float64(run.Generator.Processes)
	return full && (run.CPU == nil || run.CPU.Busy < 0.8)
}
