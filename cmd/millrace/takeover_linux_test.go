package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"millrace/codec"
	"millrace/services/client"
)

// Sessions that follow their clients from node to node, of servers in processes of their own.

// moveNode starts a node whose sessions can be resumed.
func moveNode(t *testing.T, cluster, dir, name string, more ...string) *process {
	t.Helper()
	return serve(t, append([]string{
		"--cluster=" + cluster, "--cluster-dir=" + dir, "--node=" + name, "--cluster-lease=" + nodeLease.String(), "--resume=1m",
	}, more...)...)
}

// mover is a client that resumes, and what it has been pushed, by who sent it.
type mover struct {
	*client.Client
	user string

	mu     sync.Mutex
	got    map[string][]int // guarded by mu; numbers by stream
	faults []string         // guarded by mu
	lost   atomic.Int64     // sessions
}

// dialMover connects a client, which waits about backoff before it connects again, and has it join the group all and one of its own, and bind its
// user.
func dialMover(t *testing.T, user string, backoff time.Duration, addrs ...string) *mover {
	t.Helper()
	m := &mover{user: user, got: map[string][]int{}}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := client.Dial(ctx, client.Config{
		Addrs: addrs, Resume: time.Minute, MinBackoff: backoff, MaxBackoff: max(backoff, 100*time.Millisecond),
		OnLost: func(err error) {
			if errors.Is(err, client.ErrSession) && !errors.Is(err, client.ErrClosed) {
				m.lost.Add(1)
				m.fault("lost: %v", err)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	m.Client = c
	push := func(p codec.Packet) {
		data := string(p.Body)
		if p.Sub != 2 {
			var o struct{ Data string }
			_ = json.Unmarshal(p.Body, &o)
			data = o.Data
		}
		stream, text, _ := strings.Cut(data, " ")
		n := 0
		fmt.Sscan(text, &n)
		m.mu.Lock()
		defer m.mu.Unlock()
		m.got[stream] = append(m.got[stream], n)
	}
	for _, h := range []uint32{client.Handle(1, 8), client.Handle(1, 2), client.Handle(6, 6)} {
		c.On(h, push)
	}
	m.call(ctx, 1, 5, `{"group":"all"}`)
	m.call(ctx, 1, 5, `{"group":"own `+user+`"}`)
	m.call(ctx, 6, 3, `{"user":"`+user+`"}`)
	if f := m.told(); f != "" {
		t.Fatal(f)
	}
	return m
}

func (m *mover) fault(format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.faults) < 5 {
		m.faults = append(m.faults, fmt.Sprintf(format, args...))
	}
}

// told is what has gone wrong; "": nothing.
func (m *mover) told() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return strings.Join(m.faults, "; ")
}

func (m *mover) call(ctx context.Context, main, sub uint16, body string) string {
	b, err := m.Do(ctx, client.Handle(main, sub), []byte(body))
	if err != nil {
		m.fault("%s: %d/%d %s: %v", m.user, main, sub, body, err)
	}
	return string(b)
}

// node is where its session is.
func (m *mover) node(ctx context.Context) string {
	var o struct{ Node string }
	_ = json.Unmarshal([]byte(m.call(ctx, 6, 7, "")), &o)
	return o.Node
}

// has tells whether a stream has come from first to last, each number once and in order; not
// yet is no error.
func (m *mover) has(stream string, last int, gaps func(n int) bool) (all bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := 0
	for i, n := range m.got[stream] {
		for gaps != nil && next < n && gaps(next) {
			next++
		}
		if n != next {
			return false, fmt.Errorf("%s: of %s came %d where %d was to come: %d", m.user, stream, n, next, m.got[stream][max(0, i-5):min(len(m.got[stream]), i+5)])
		}
		next++
	}
	for gaps != nil && next <= last && gaps(next) {
		next++
	}
	return next > last, nil
}

// want waits until the stream has come to its end.
func (m *mover) want(t *testing.T, stream string, last int, gaps func(n int) bool) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		all, err := m.has(stream, last, gaps)
		if err != nil {
			t.Error(err)
			return
		}
		if all {
			return
		}
		if time.Now().After(end) {
			m.mu.Lock()
			defer m.mu.Unlock()
			t.Errorf("%s: of %s came %d up to %d", m.user, stream, len(m.got[stream]), last)
			return
		}
	}
}

// sender sends numbers, one after the other with a pause between them, until it is stopped or refused.
type sender struct {
	stream string
	last   int          // behind stop
	unsent map[int]bool // behind stop; what its node says was not sent, or may not have been
	stop   func()
}

// send begins to send: body makes the request of a number.
func send(t *testing.T, every time.Duration, addr, stream string, main, sub uint16, body func(n int) string) *sender {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c, err := client.Dial(ctx, client.Config{Addrs: []string{addr}, NoReconnect: true})
	if err != nil {
		t.Fatal(err)
	}
	s := &sender{stream: stream, last: -1, unsent: map[int]bool{}}
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			got, err := c.Do(context.Background(), client.Handle(main, sub), []byte(body(n)))
			var refused *client.Error
			switch {
			case errors.As(err, &refused) || err == nil && strings.Contains(string(got), `"sent":false`):
				s.unsent[n] = true
			case err != nil:
				s.unsent[n] = true // it may have been sent
				s.last = n
				return
			}
			s.last = n
			time.Sleep(every)
		}
	})
	s.stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
		c.Close()
	})
	t.Cleanup(s.stop)
	return s
}

// pace is how long each of what sends to clients waits between two messages, so that these take
// what they get: 2 ms for 40 of them, and more than as many times that for more of them.
func pace(clients int) time.Duration {
	if clients > 100 {
		return time.Duration(clients) * 200 * time.Microsecond
	}
	return time.Duration(clients) * 50 * time.Microsecond
}

// asks has a client send itself numbers, until stop is called, which returns the last.
func (m *mover) asks(every time.Duration) (stop func() int) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan int)
	go func() {
		n := 0
		for ; ctx.Err() == nil; n++ {
			each, cancel := context.WithTimeout(context.Background(), patience)
			m.call(each, 1, 7, fmt.Sprintf(`{"group":"own %s","data":"own %d"}`, m.user, n))
			if want := fmt.Sprint("echo ", n); m.call(each, 1, 1, want) != want {
				m.fault("%s: %q was not answered so", m.user, want)
			}
			cancel()
			time.Sleep(every)
		}
		done <- n - 1
	}()
	return func() int {
		cancel()
		return <-done
	}
}

// A node that drains lets its sessions go at a rate, to another that GOAWAY names. They go on
// there: each request is answered and run once, each push to a group, a user or all comes once
// and in its order, wherever its sender is.
func TestSessionsOfADrainedNodeGoOnElsewhere(t *testing.T) {
	t.Parallel()
	clients := 40
	if *long {
		clients = 1000
	}
	dir, _ := natsServer(t)
	b := moveNode(t, "embedded", dir, "b")
	c := moveNode(t, "embedded", dir, "c")
	a := moveNode(t, "embedded", dir, "a", fmt.Sprint("--drain-rate=", min(clients/4, 50)), "--drain-to="+strings.TrimPrefix(b.ready[0], "tcp://"))
	b.dial().knows("a=up b=up c=up")
	a.dial().knows("a=up b=up c=up")
	var all []*mover
	var stops []func() int
	for i := range clients {
		all = append(all, dialMover(t, fmt.Sprint("u", i), time.Millisecond, a.ready[0]))
	}
	for _, m := range all {
		stops = append(stops, m.asks(2*pace(clients)))
	}
	toAll := func(stream string) func(int) string {
		return func(n int) string { return fmt.Sprintf(`{"group":"all","data":"%s %d"}`, stream, n) }
	}
	senders := []*sender{
		send(t, pace(clients), b.ready[0], "group-b", 1, 7, toAll("group-b")), send(t, pace(clients), c.ready[0], "group-c", 1, 7, toAll("group-c")),
		send(t, pace(clients), a.ready[0], "group-a", 1, 7, toAll("group-a")),
		send(t, pace(clients), c.ready[0], "cast-c", 1, 2, func(n int) string { return fmt.Sprint("cast-c ", n) }),
	}
	users := []*sender{}
	for i := range 4 {
		users = append(users, send(t, pace(clients), c.ready[0], "user", 6, 4, func(n int) string {
			return fmt.Sprintf(`{"user":"u%d","data":"user %d"}`, i, n)
		}))
	}
	time.Sleep(300 * time.Millisecond) // all streams flow
	begun := time.Now()
	a.signal(syscall.SIGTERM)
	if code := a.wait(); code != exitOK {
		t.Errorf("exit code %d of the node that drained: %s", code, a.log())
	}
	took := time.Since(begun)
	for _, s := range append(senders, users...) {
		s.stop()
	}
	lasts := make([]int, clients)
	var stopping sync.WaitGroup
	for i, stop := range stops {
		stopping.Go(func() { lasts[i] = stop() })
	}
	stopping.Wait()
	for i, m := range all {
		if f := m.told(); f != "" {
			t.Errorf("%s: %s", m.user, f)
			continue
		}
		m.want(t, "own", lasts[i], nil)
		for _, s := range senders {
			m.want(t, s.stream, s.last, func(n int) bool { return s.unsent[n] })
		}
		if i < len(users) {
			m.want(t, "user", users[i].last, func(n int) bool { return users[i].unsent[n] })
		}
		if f := m.told(); f != "" {
			t.Error(f)
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		if node := m.node(ctx); node != "b" {
			t.Errorf("%s is on %q: %s", m.user, node, m.told())
		}
		cancel()
	}
	t.Logf("%d sessions in %v; of %d, %d, %d group sends, %d broadcasts", clients, took, senders[0].last, senders[1].last, senders[2].last, senders[3].last)
}
