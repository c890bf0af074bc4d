package hostile

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"
)

// The model of limits: whatever the limits and however clients misbehave, memory stays
// within the budget, clients that behave are served in order with one outcome for each
// request, and when all have gone nothing of them is left. A seed picks the limits, the
// clients and what they do; a failure names it.
func TestModelOfLimits(t *testing.T) {
	n, first := 2, *seed
	if *long {
		n = 12
	}
	if *rounds > 0 {
		n = *rounds
	}
	if first == 0 {
		first = time.Now().UnixNano() % 1e9
	}
	for i := range int64(n) {
		t.Run(fmt.Sprintf("seed=%d", first+i), func(t *testing.T) { modelRound(t, first+i) })
		if t.Failed() {
			t.Logf("again: go test ./cmd/millrace/hostile -run TestModelOfLimits -rounds 1 -seed %d", first+i)
			break
		}
	}
}

// limits is what a seed gives to a server.
type limits struct {
	budget, outbound, pending, frame, outbox int
	args                                     []string
}

func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

func drawLimits(r *rand.Rand) limits {
	l := limits{
		budget:   pick(r, 4, 8, 16, 32) * mib,
		outbound: pick(r, 128, 256, 1024) * kib,
		pending:  pick(r, 64, 256, 1024) * kib,
		frame:    pick(r, 16, 64, 256, 1024) * kib,
		outbox:   pick(r, 512, 1024, 4096) * kib,
	}
	l.args = []string{
		fmt.Sprintf("--memory-budget=%d", l.budget), fmt.Sprintf("--max-outbound=%d", l.outbound),
		fmt.Sprintf("--max-pending=%d", l.pending), fmt.Sprintf("--max-frame=%d", l.frame), fmt.Sprintf("--max-outbox=%d", l.outbox),
		"--dispatch=" + pick(r, "adaptive", "ordered", "inline"), fmt.Sprintf("--loops=%d", 1+r.IntN(3)),
		fmt.Sprintf("--workers=%d", 1+r.IntN(4)), "--accept=" + pick(r, "reuseport", "single"),
		// Long enough that a client which sent its frame at once is never late, even if the
		// machine stands still for a second.
		"--first-frame-timeout=" + pick(r, "3s", "10s"), "--frame-timeout=" + pick(r, "3s", "10s"),
		"--idle-timeout=" + pick(r, "off", "3s"), "--heartbeat=" + pick(r, "off", "300ms"),
		"--read-buffer=" + pick(r, "4KiB", "64KiB", "256KiB"), "--linger=" + pick(r, "500ms", "2s"),
	}
	if r.IntN(3) > 0 {
		l.args = append(l.args, smallSend)
	}
	return l
}

func modelRound(t *testing.T, seed int64) {
	r := rand.New(rand.NewPCG(uint64(seed), 0))
	l := drawLimits(r)
	load := 2500 * time.Millisecond
	if *long {
		load = 15 * time.Second
	}
	s := serve(t, l.args...)
	before := s.fds()
	m := s.watch()

	crowd := &crowd{s: s, limits: l, stop: make(chan struct{}), open: map[*client]bool{}}
	good := behave(s, 4)
	counts := map[string]int{}
	for i := range 20 + r.IntN(41) {
		k := pick(r, kinds...)
		counts[k.name]++
		crowd.join(k, rand.New(rand.NewPCG(uint64(seed), uint64(i+1))))
	}
	t.Logf("%v", l.args)
	t.Logf("%v", counts)

	select {
	case <-time.After(load):
	case <-s.ended:
		t.Fatalf("the server ended with code %d: %s", s.code, tail(s.log.String(), 3000))
	}
	rest(good)
	for i, h := range good {
		if err := h.check(good, 20*time.Second); err != nil {
			t.Errorf("healthy client %d: %v", i, err)
		}
	}
	m.within(l.budget)
	if !t.Failed() { // else one may not have ended
		latency(t, good)
	}
	crowd.disperse()
	crowd.report(t)
	for _, h := range good {
		h.c.Close()
	}
	if !s.alive() {
		t.Fatalf("the server ended with code %d", s.code)
	}
	s.settle(before, 15*time.Second)
	s.term()
	if code := s.exit(15 * time.Second); code != 0 {
		t.Errorf("got exit code %d with nothing owed, want 0", code)
	}
}

// latency reports and judges how long the healthy clients' echoes took.
func latency(t *testing.T, good []*healthy) {
	t.Helper()
	var took []time.Duration
	for _, h := range good {
		h.mu.Lock()
		took = append(took, h.took...)
		h.mu.Unlock()
	}
	if len(took) == 0 {
		t.Error("no echo of a healthy client was answered")
		return
	}
	slices.Sort(took)
	p99, worst := took[len(took)*99/100], took[len(took)-1]
	t.Logf("%d echoes of healthy clients: median %v, p99 %v, worst %v", len(took), took[len(took)/2], p99, worst)
	if *long && p99 > 2*time.Second || worst > 10*time.Second { // the rest is the machine's
		t.Errorf("echoes take p99 %v, worst %v; want 2 s, 10 s at most", p99, worst)
	}
}

// crowd is the clients that misbehave.
type crowd struct {
	s      *server
	limits limits
	stop   chan struct{}
	wg     sync.WaitGroup

	mu    sync.Mutex
	open  map[*client]bool
	wrong map[string]int // what they saw and should not have
}

// hostile is one of them.
type hostile struct {
	*crowd
	r *rand.Rand
}

// join starts a client of this kind, which goes on until the crowd disperses.
func (c *crowd) join(k kind, r *rand.Rand) {
	h := &hostile{c, r}
	c.wg.Go(func() {
		for !h.over() {
			conn, err := c.s.try(pick(r, 0, 4*kib))
			if err != nil {
				if c.s.alive() && !h.over() {
					h.fault("%s: dial: %v", k.name, err)
				}
				h.pause(100 * time.Millisecond)
				continue
			}
			if !c.enter(conn) {
				return
			}
			k.run(h, conn)
			c.leave(conn, r.IntN(3) == 0)
		}
	})
}

func (c *crowd) enter(conn *client) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open == nil {
		conn.Close()
		return false
	}
	c.open[conn] = true
	return true
}

func (c *crowd) leave(conn *client, reset bool) {
	c.mu.Lock()
	delete(c.open, conn)
	c.mu.Unlock()
	if reset {
		conn.reset()
	} else {
		conn.Close()
	}
}

// disperse closes all and waits for them.
func (c *crowd) disperse() {
	close(c.stop)
	c.mu.Lock()
	open := slices.Collect(maps.Keys(c.open))
	c.open = nil
	c.mu.Unlock()
	for i, conn := range open {
		if i%2 == 0 {
			conn.reset()
		} else {
			conn.Close()
		}
	}
	c.wg.Wait()
}

// report reports the faults that its clients saw, or some of them.
func (c *crowd) report(t *testing.T) {
	t.Helper()
	shown := 0
	for text, n := range c.wrong {
		if t.Errorf("%s (%d times)", text, n); shown == 5 {
			t.Errorf("and %d faults more", len(c.wrong)-6)
			break
		}
		shown++
	}
}

// fault notes what a client saw and should not have, unless it was closed by the test.
func (h *hostile) fault(format string, args ...any) {
	if h.over() {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.wrong == nil {
		h.wrong = map[string]int{}
	}
	h.wrong[fmt.Sprintf(format, args...)]++
}

func (h *hostile) over() bool {
	select {
	case <-h.stop:
		return true
	default:
		return false
	}
}

// pause lets time pass and says whether to go on.
func (h *hostile) pause(d time.Duration) bool {
	select {
	case <-h.stop:
		return false
	case <-time.After(d):
		return true
	}
}
