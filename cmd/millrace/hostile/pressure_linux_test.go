package hostile

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// load is a way in which many clients have a server hold memory, each on a connection of
// its own. run ends at the latest when the connection is closed.
type load struct {
	name string
	args []string // of the server
	run  func(c *client, i int)
	// outruns: it sends to all faster than a client can read, who is then a slow consumer too.
	outruns bool
}

// pour writes b again and again, as fast as the server takes it, and reads nothing.
func pour(c *client, b []byte) {
	c.SetWriteDeadline(time.Time{})
	for {
		if _, err := c.Write(b); err != nil {
			return
		}
	}
}

// drip writes b every 50 ms and reads nothing.
func drip(c *client, b []byte) {
	c.SetWriteDeadline(time.Time{})
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for range tick.C {
		if _, err := c.Write(b); err != nil {
			return
		}
	}
}

// loads are those that the memory budget is about.
var loads = []load{
	{name: "answers of 60 KiB unread", run: func(c *client, _ int) { pour(c, wire(nil, 1, 1, strings.Repeat("l", 60*kib))) }},
	{name: "answers of 8 bytes unread", run: func(c *client, _ int) { pour(c, repeat(2000, 1, 1, "12345678")) }},
	{name: "broadcasts unread", run: func(c *client, _ int) { drip(c, wire(nil, 1, 2, strings.Repeat("b", 2*kib))) }},
	{name: "group sends unread", run: func(c *client, _ int) {
		c.send(1, 5, `{"group":"g"}`)
		pour(c, repeat(10, 1, 7, `{"group":"g","data":"`+strings.Repeat("g", 1000)+`"}`))
	}},
	{name: "sends to a group of one unread", run: func(c *client, i int) {
		group := fmt.Sprintf(`{"group":"g%d"`, i)
		c.send(1, 5, group+"}")
		pour(c, repeat(100, 1, 7, group+`,"data":"g"}`))
	}},
	{name: "timers of 1 ms unread", run: func(c *client, _ int) {
		var b []byte
		for id := range 100 {
			b = wire(b, 2, 1, fmt.Sprintf(`{"id":%d,"ms":1,"repeat":0}`, id))
		}
		c.put(b, 10*time.Second)
	}},
	{name: "frames that stop at 60 KiB", run: func(c *client, _ int) {
		c.put(wire(nil, 1, 1, strings.Repeat("p", 64000))[:60*kib], 10*time.Second)
	}},
	{name: "tiny requests behind a sleep", args: []string{"--spare-workers=2000"}, run: func(c *client, _ int) {
		c.send(1, 4, `{"ms":60000}`)
		pour(c, repeat(500, 1, 1, ""))
	}},
	{name: "PINGs unread", run: func(c *client, _ int) { pour(c, repeat(1000, 0, 1, strings.Repeat("p", 64))) }},
	{name: "locks and waits", run: func(c *client, i int) {
		var b []byte
		for n := range 1024 {
			b = wire(b, 5, 4, fmt.Sprintf(`{"key":"k%d","ttl_ms":60000,"wait_ms":60000}`, (n+i)%2000))
		}
		pour(c, b)
	}},
}

// more are loads of their own.
var more = []load{
	{name: "mixture", args: []string{"--spare-workers=2000"}, run: func(c *client, i int) { loads[i%len(loads)].run(c, i) }},
	{name: "flood of broadcasts", outruns: true, run: func(c *client, _ int) { pour(c, repeat(4, 1, 2, strings.Repeat("b", 4*kib))) }},
	{name: "flood of tiny broadcasts", outruns: true, run: func(c *client, _ int) { pour(c, repeat(100, 1, 2, "b")) }},
}

// However clients have the server hold memory, it stays within half as much again as the
// budget, those who read are served meanwhile, and when it is over the memory is given
// back.
func TestNoLoadTakesMoreThanTheBudget(t *testing.T) {
	for _, l := range append(loads, more...) {
		t.Run(l.name, func(t *testing.T) {
			if *long {
				pressure(t, l, 1000, 256*mib, 20*time.Second, time.Second)
				return
			}
			t.Parallel()
			pressure(t, l, 100, 16*mib, 3*time.Second, 9*time.Second) // it would be 10 s until who does not read is closed
		})
	}
}

func pressure(t *testing.T, l load, clients, budget int, d, patience time.Duration) {
	args := append([]string{fmt.Sprintf("--memory-budget=%d", budget), "--first-frame-timeout=0", "--frame-timeout=0", smallSend}, l.args...)
	s := serve(t, args...)
	good := s.dial()
	good.want(1, 1, "warm", "warm")
	before := s.fds()
	m := s.watch()
	var wg sync.WaitGroup
	crowd := s.dialMany(clients)
	for i, c := range crowd {
		wg.Go(func() { l.run(c, i) })
	}
	if l.outruns {
		<-time.After(d)
	} else {
		rush, slowest := reads(t, good, d, patience)
		t.Logf("slowest answer to one who reads %v, later %v", rush.Round(time.Millisecond), slowest.Round(time.Millisecond))
	}
	t.Logf("%d of %d still connected", s.fds()-before, clients)
	m.within(budget)
	for _, c := range crowd {
		c.reset()
	}
	wg.Wait()
	s.settle(before, 20*time.Second)
	m.givenBack()
}

// reads has a client call for so long and read all it is sent at once, and returns how
// long the slowest answer took: while the crowd rushes in, which saturates the machine,
// and then, when the budget is full.
func reads(t *testing.T, c *client, d, patience time.Duration) (rush, slowest time.Duration) {
	t.Helper()
	answers := make(chan string, 1)
	failed := make(chan error, 1)
	go func() {
		for {
			f, err := c.next(time.Minute)
			if err != nil {
				failed <- err
				return
			}
			if f.is(1, 1) {
				answers <- f.body
			}
		}
	}()
	next := time.NewTicker(50 * time.Millisecond)
	defer next.Stop()
	full := time.Now().Add(d / 4)
	for n, end := 0, time.Now().Add(d); time.Now().Before(end); n++ {
		from := time.Now()
		if err := c.send(1, 1, fmt.Sprint("good ", n)); err != nil {
			t.Fatalf("call %d of one who reads: %v", n, err)
		}
		select {
		case got := <-answers:
			if want := fmt.Sprint("good ", n); got != want {
				t.Fatalf("call %d of one who reads: got %q, want %q", n, got, want)
			}
		case err := <-failed:
			t.Fatalf("call %d of one who reads, after %v: %v", n, time.Since(from), err)
		case <-time.After(20 * time.Second):
			t.Fatalf("call %d of one who reads: no answer for 20 s", n)
		}
		if took := time.Since(from); from.Before(full) {
			rush = max(rush, took)
		} else {
			slowest = max(slowest, took)
		}
		<-next.C
	}
	if slowest > patience || rush > 10*time.Second {
		t.Errorf("one who reads waited %v for an answer, before that %v", slowest.Round(time.Millisecond), rush.Round(time.Millisecond))
	}
	return rush, slowest
}
