package bench

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

// frozen answers honestly, but for one pause that begins a while after the first request and
// holds every connection.
func frozen(after, pause time.Duration) reply {
	var first sync.Once
	var from time.Time
	return func(s *fakeServer, c *fakeConn, h uint32, b []byte) {
		first.Do(func() { from = time.Now().Add(after) })
		if now := time.Now(); now.After(from) && now.Before(from.Add(pause)) {
			time.Sleep(from.Add(pause).Sub(now))
		}
		honest(s, c, h, b)
	}
}

// The window is from 50 to 200 ms, the pause from 120 to 720 ms: no reply to what it held up
// comes in the window.
func TestAFreezeOverTheEndOfTheWindowShows(t *testing.T) {
	const after, pause = 120 * time.Millisecond, 600 * time.Millisecond
	for _, spec := range []string{"echo/2x2", "echo/2@2000", "broadcast/3x1", "churn/2"} {
		t.Run(spec, func(t *testing.T) {
			for tries := 3; ; tries-- { // the machine may stall too
				r := measureFake(t, startFake(t, frozen(after, pause)).target(), spec)
				problem := r.Error
				if problem == "" && r.Latency.Max < 1e6*pause.Seconds()/2 {
					problem = fmt.Sprintf("the longest latency is %.0f µs, after a pause of %v", r.Latency.Max, pause)
				}
				if problem == "" {
					return
				}
				if tries == 0 {
					t.Fatal(problem)
				}
				t.Log(problem)
			}
		})
	}
}

// A request that is never answered counts with its age.
func TestWhatIsOwedAtTheEndCounts(t *testing.T) {
	const shut, end = int64(time.Second), int64(3 * time.Second)
	l := &loop{phase: draining, now: end}
	l.open.at, l.shut.at = 0, shut
	asked := func(next uint64, at ...int64) *conn {
		c := &conn{next: next, fd: 1, born: at[0]}
		for _, t := range at {
			c.sent.push(t, 1)
		}
		return c
	}
	two := []*conn{asked(1, shut-1), asked(1, shut-2)}
	members := &group{conns: []*conn{{cast: 1}, {}}, flight: []groupSend{{at: shut - 1, left: 2}}}
	timed := &conn{}
	blocked := newEchoDriver(genSpec{Workload: Workload{Body: 64, Rate: 1000}, Share: 1})
	blocked.issued, blocked.blocked = 989, true // 990 to 999 were due in the window
	cases := []struct {
		name string
		d    driver
		want int64
	}{
		{"echo", &echoDriver{replies: newStream("echo"), conns: []*conn{asked(2, shut-1, shut-2)}}, 2},
		{"echo at a rate", blocked, 10},
		{"calls", &callDriver{replies: newStream("calls"), conns: two}, 2},
		{"broadcasts", &castDriver{deliveries: newStream("broadcast"), sent: []int64{shut - 2, shut - 1}, left: []int{1, 2}}, 3},
		{"groups", &groupDriver{deliveries: newStream("group"), groups: []*group{members}}, 1},
		{"timers", &timerDriver{
			firings: newStream("timers"), period: int64(100 * time.Millisecond), conns: []*conn{timed},
			timers: map[*conn][]firing{timed: {{n: 4}, {n: 9}}}, // the second one's next is due after the window
		}, 1},
		{"lives", &churnDriver{lives: newStream("connection")}, 2},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			l.conns = two
			c.d.overdue(l)
			s := c.d.streams()[0]
			if got := s.hist.TotalCount(); got != c.want || s.count != 0 {
				t.Errorf("%d latencies and %d messages, want %d and 0", got, s.count, c.want)
			}
			if least := s.hist.Min(); least < int64(time.Second) {
				t.Errorf("the shortest is %v, want the age at the end", time.Duration(least))
			}
		})
	}
	late := newStream("late")
	l.note(late, shut+1, 1)
	if late.hist.TotalCount() != 0 {
		t.Error("what was asked for after the window counts")
	}
}
