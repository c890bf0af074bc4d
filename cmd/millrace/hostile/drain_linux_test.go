package hostile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// A handler that outlasts the drain is a loss that the exit code tells, and it doesn't
// hold the end of the process, wherever it runs.
func TestHandlerThatOutlastsTheDrainDoesNotHoldTheExit(t *testing.T) {
	t.Parallel()
	for _, arg := range []string{"--dispatch=adaptive", "--dispatch=ordered", "--dispatch=inline", "--handle-dispatch=1/4=inline"} {
		t.Run(arg, func(t *testing.T) {
			s := serve(t, "--drain-timeout=500ms", "--linger=500ms", arg)
			c := s.dial()
			c.want(1, 1, "x", "x")
			c.send(1, 4, `{"ms":60000}`)
			<-time.After(200 * time.Millisecond) // nothing tells a client that its handler runs
			from := time.Now()
			s.term()
			code := s.exit(6 * time.Second)
			t.Logf("exit code %d %v after SIGTERM", code, time.Since(from).Round(10*time.Millisecond))
			if code != 3 {
				t.Errorf("got exit code %d, want 3", code)
			}
		})
	}
}

// A client that downloads for longer than the server lingers, and sends PINGs meanwhile,
// gets an answer to each request, or the exit code says that something was lost. What the
// kernel still has to send must not be destroyed by the reset that a late PING meets with.
func TestSlowDownloadWithPingsLosesNothingInADrain(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name      string
		body      int
		args      []string
		downloads time.Duration
	}{
		{"in the kernel's buffers", 100 * kib, []string{"--max-frame=1MiB"}, 5 * time.Second},
		{"in the server's memory", 60 * kib, []string{smallSend}, 5 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			downloadInDrain(t, c.body, c.downloads, append(c.args, "--drain-timeout=20s"))
		})
	}
}

func downloadInDrain(t *testing.T, body int, downloads time.Duration, args []string) {
	const requests = 20
	s := serve(t, args...)
	c := s.dialSmall(16 * kib)
	if err := c.put(repeat(requests, 1, 1, strings.Repeat("d", body)), time.Minute); err != nil {
		t.Fatal(err)
	}
	if _, err := c.next(time.Minute); err != nil {
		t.Fatal(err)
	}
	s.term()
	go func() {
		for c.send(0, 1, "ping") == nil {
			<-time.After(20 * time.Millisecond)
		}
	}()
	answers, refused, pongs := 1, 0, 0
	var end error
	for end == nil {
		var f frame
		if f, end = c.next(time.Minute); end != nil {
			break
		}
		switch code, _ := f.errorCode(); {
		case f.is(1, 1) && len(f.body) == body:
			answers++
			<-time.After(downloads / requests)
		case f.is(0, 2):
			pongs++
		case code == 7:
			refused++
		}
	}
	code := s.exit(20 * time.Second)
	t.Logf("%d requests: %d answers, %d ERROR 7; %d PONGs; then %v; exit code %d", requests, answers, refused, pongs, end, code)
	if answers+refused < requests && code != 3 {
		t.Errorf("%d of %d requests have no outcome, and the exit code is %d", requests-answers-refused, requests, code)
	}
}

// Half a frame at SIGTERM is no request: it holds a drain no longer than a late request
// may, which is far less than the drain's time.
func TestHalfAFrameDoesNotHoldADrain(t *testing.T) {
	t.Parallel()
	request := wire(nil, 1, 1, strings.Repeat("h", 1000))
	for _, c := range []struct {
		name string
		part int
		drip bool // a byte each 50 ms goes on coming
	}{{"half a length", 2, false}, {"half a body", 500, false}, {"a byte at a time", 100, true}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, "--drain-timeout=40s", "--frame-timeout=2m")
			half := s.dial()
			half.want(1, 1, "x", "x")
			half.put(request[:c.part], time.Second)
			s.dial().want(1, 1, "y", "y")
			s.term()
			from := time.Now()
			if c.drip {
				go func() {
					for i := c.part; i < len(request) && half.put(request[i:i+1], time.Second) == nil; i++ {
						<-time.After(50 * time.Millisecond)
					}
				}()
			}
			code := s.exit(45 * time.Second)
			took := time.Since(from)
			t.Logf("exit code %d %v after SIGTERM", code, took.Round(10*time.Millisecond))
			if took > 20*time.Second { // one in which requests are still served, two of --linger, and what a busy machine takes
				t.Errorf("the drain took %v of its 40 s, want about 3 s at most", took)
			}
			if code != 0 {
				t.Errorf("got exit code %d, want 0: no request was lost", code)
			}
		})
	}
}

// leaving is how one client saw a drain.
type leaving struct {
	told   bool
	goAway time.Time // when it came, however late it was read
	end    time.Time
	grace  uint32
	text   string
}

// drainOf connects idle clients, drains, and returns what they saw, by the time of their end.
func drainOf(t *testing.T, clients int, args ...string) (all []leaving, term time.Time, code int) {
	s := serve(t, args...)
	seen := make([]leaving, clients)
	var wg sync.WaitGroup
	for i := range seen {
		c := s.dial()
		c.want(1, 1, "x", "x")
		wg.Go(func() {
			l := &seen[i]
			for {
				f, err := c.next(30 * time.Second)
				if err != nil {
					l.end = time.Now()
					if l.told {
						l.goAway = l.end.Add(-c.quiet())
					}
					return
				}
				if f.is(0, 4) && len(f.body) >= 4 {
					l.told, l.grace, l.text = true, binary.BigEndian.Uint32([]byte(f.body)), f.body[4:]
				}
			}
		})
	}
	term = time.Now()
	s.term()
	wg.Wait()
	code = s.exit(10 * time.Second)
	slices.SortFunc(seen, func(a, b leaving) int { return a.end.Compare(b.end) })
	return seen, term, code
}

// Idle clients are not sent away all at once, so that they don't arrive elsewhere at once.
func TestDrainSpreadsTheClosesOfIdleClients(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		clients int
		args    []string
		least   time.Duration // between the first close and the last
	}{
		{"default of 200 a second", 300, nil, time.Second},
		{"50 a second", 100, []string{"--drain-rate=50"}, 1500 * time.Millisecond},
		{"a quarter of a short drain", 300, []string{"--drain-timeout=2s"}, 200 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			all, term, code := drainOf(t, c.clients, c.args...)
			first, last := all[0], all[len(all)-1]
			span := last.end.Sub(first.end)
			slices.SortFunc(all, func(a, b leaving) int { return a.goAway.Compare(b.goAway) })
			burst := 0 // most GOAWAYs within 100 ms
			for i, j := 0, 0; j < len(all); j++ {
				for all[j].goAway.Sub(all[i].goAway) > 100*time.Millisecond {
					i++
				}
				burst = max(burst, j-i+1)
			}
			t.Logf("%d closes within %v, the first %v after SIGTERM, up to %d GOAWAYs in 100 ms; exit code %d", len(all),
				span.Round(time.Millisecond), first.end.Sub(term).Round(time.Millisecond), burst, code)
			if span < c.least || span > 20*time.Second { // of the 30 of a drain
				t.Errorf("the closes take %v, want %v or a little more", span, c.least)
			}
			if burst > len(all)/2 {
				t.Errorf("%d of %d GOAWAYs came within 100 ms", burst, len(all))
			}
			if code != 0 {
				t.Errorf("got exit code %d, want 0", code)
			}
			for i, l := range all {
				if !l.told || l.text != "" || l.grace == 0 {
					t.Fatalf("client %d: GOAWAY %v, with grace %d and %q", i, l.told, l.grace, l.text)
				}
				if waited := l.end.Sub(l.goAway); waited < 80*time.Millisecond {
					t.Errorf("client %d is closed %v after GOAWAY, want 100 ms", i, waited)
				}
			}
		})
	}
}

// GOAWAY says for how long, and where to go if the operator does.
func TestGoAwayNamesTheNextServer(t *testing.T) {
	t.Parallel()
	const to = "tcp://127.0.0.1:7001"
	all, _, code := drainOf(t, 3, "--drain-to="+to, "--drain-timeout=5s")
	for _, l := range all {
		if !strings.Contains(to, l.text) || len(l.text) < len("127.0.0.1:7001") || l.grace == 0 || l.grace > 5000 {
			t.Errorf("GOAWAY with grace %d ms and %q, want at most 5000 and %q", l.grace, l.text, to)
		}
	}
	if code != 0 {
		t.Errorf("got exit code %d, want 0", code)
	}
}

// A drain answers what was read and refuses what comes later: nothing is met with silence, but
// what a client sends after it was silent itself for as long as a drain waits.
func TestRequestsDuringADrainAllHaveAnOutcome(t *testing.T) {
	t.Parallel()
	const clients = 20
	for try := 1; ; try++ {
		s := serve(t, "--drain-timeout=10s")
		faults := make(chan error, clients)
		for range clients {
			c := s.dial()
			go func() { faults <- pipelineUntilEnd(c) }()
		}
		<-time.After(300 * time.Millisecond)
		s.term()
		late := 0
		for range clients {
			if err := <-faults; errors.Is(err, errLate) {
				late++
			} else if err != nil {
				t.Error(err)
			}
		}
		if code := s.exit(12 * time.Second); code != 0 {
			t.Errorf("got exit code %d, want 0", code)
		}
		if late < clients/2 {
			return
		}
		if try == 5 {
			t.Fatalf("%d of %d clients were late each time", late, clients)
		}
	}
}

// errLate is of a client that has left its connection alone for as long as a drain waits before
// it closes one: what it sends then may come too late.
var errLate = errors.New("the client stood still")

// pipelineUntilEnd sends numbered echoes, 20 in flight, until GOAWAY comes, and returns an
// error if one of them has no outcome then.
func pipelineUntilEnd(c *client) error {
	const patient = 80 * time.Millisecond // a drain waits 100
	next, due := 0, 0
	heard, late := time.Now(), false
	for away := false; !away || due < next; {
		for ; !away && next-due < 20; next++ {
			if err := c.send(1, 1, fmt.Sprint(next)); err != nil {
				return fmt.Errorf("write %d: %w", next, err)
			}
		}
		f, err := c.next(time.Minute)
		if err != nil && late {
			return fmt.Errorf("%w: %d of %d have an outcome, then %v", errLate, due, next, err)
		}
		if err != nil {
			return fmt.Errorf("%d of %d have an outcome, then %w", due, next, err)
		}
		late = late || time.Since(heard) > patient
		heard = time.Now()
		switch code, handle := f.errorCode(); {
		case f.is(0, 4):
			away = true
		case f.is(1, 1) && f.body == fmt.Sprint(due), code == 7 && handle == 1<<16|1:
			due++
		default:
			return fmt.Errorf("got %v, want the answer to %d", f, due)
		}
	}
	return nil
}
