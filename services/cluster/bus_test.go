package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/internal/faultproxy"
	"millrace/services"
	"millrace/services/cluster"
)

func bus(t testing.TB, url string, cfg cluster.BusConfig, change ...func(*cluster.Config)) (*cluster.Bus, *cluster.Cache) {
	t.Helper()
	c := open(t, url, steady, change...)
	b, err := c.NewBus(cfg)
	if err == nil {
		err = b.Start(background)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Stop(background); err != nil {
			t.Error(err)
		}
	})
	return b, c
}

// within a minute it is so.
func soon(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not within a minute: " + what)
		}
	}
}

// OnUp has returned when Start returns; otherwise it would run during what follows.
func TestStartReturnsBehindOnUp(t *testing.T) {
	var done atomic.Bool
	b, _ := bus(t, embedded(t).URL(), cluster.BusConfig{OnUp: func() {
		<-time.After(50 * time.Millisecond) // as where its goroutine loses the processor
		done.Store(true)
	}})
	if !done.Load() && b.Up() {
		t.Error("Start has returned while OnUp runs")
	}
}

func TestABusKeepsTheOrderOverSubjects(t *testing.T) {
	url := embedded(t).URL()
	a, _ := bus(t, url, cluster.BusConfig{})
	b, _ := bus(t, url, cluster.BusConfig{})
	const total = 3000
	got := make(chan string, total)
	in := b.Inbox(total, func(m cluster.Message) { got <- m.Subject + " " + string(m.Data) })
	for _, subject := range []string{"x", "y", "z"} {
		if _, err := in.Subscribe(subject, ""); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Flush(background); err != nil {
		t.Fatal(err)
	}
	want := func(i int) (subject, text string) { return string("xyz"[i*i%3]), fmt.Sprint(i) }
	for i := range total {
		subject, text := want(i)
		if err := a.Publish(subject, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range total {
		subject, text := want(i)
		if m := <-got; m != subject+" "+text {
			t.Fatalf("message %d: got %q", i, m)
		}
	}
}

func TestAQuestionHasOneOutcome(t *testing.T) {
	srv := embedded(t)
	host := srv.URL()[strings.Index(srv.URL(), "@")+1:]
	proxy := faultproxy.New(t, host)
	a, _ := bus(t, strings.Replace(srv.URL(), host, proxy.Addr(), 1), cluster.BusConfig{MaxAsks: 1})
	b, _ := bus(t, srv.URL(), cluster.BusConfig{})
	at := time.Now()
	if _, err := a.Ask(background, "nobody", nil); !errors.Is(err, cluster.ErrUnavailable) || time.Since(at) > within {
		t.Errorf("nobody there: %v after %v", err, time.Since(at))
	}
	var heard atomic.Int32
	in := b.Inbox(8, func(m cluster.Message) {
		heard.Add(1)
		if string(m.Data) != "silence" {
			_ = m.Answer(append([]byte("re: "), m.Data...))
		}
	})
	if _, err := in.Subscribe("q", "some"); err != nil {
		t.Fatal(err)
	}
	if err := b.Flush(background); err != nil {
		t.Fatal(err)
	}
	if got, err := a.Ask(background, "q", []byte("1")); string(got) != "re: 1" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	short, cancel := context.WithTimeout(background, 50*time.Millisecond)
	defer cancel()
	if _, err := a.Ask(short, "q", []byte("silence")); !errors.Is(err, cluster.ErrNoAnswer) {
		t.Errorf("no answer: got %v", err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := a.Ask(background, "q", []byte("silence"))
		done <- err
	}()
	soon(t, "it has been heard", func() bool { return heard.Load() == 3 })
	if _, err := a.Ask(background, "q", nil); !errors.Is(err, cluster.ErrOverloaded) {
		t.Errorf("past MaxAsks: got %v", err)
	}
	proxy.Cut()
	if err := <-done; !errors.Is(err, cluster.ErrLost) {
		t.Errorf("when the connection goes: got %v, want ErrLost", err)
	}
	soon(t, "the bus is down", func() bool { return !a.Up() })
	for range 100 {
		if err := a.Publish("q", []byte("late")); !errors.Is(err, cluster.ErrUnavailable) {
			t.Fatalf("while it is down: got %v", err)
		}
	}
	proxy.Heal()
	soon(t, "the bus is up", a.Up)
	if got, err := a.Ask(background, "q", []byte("2")); string(got) != "re: 2" || err != nil {
		t.Errorf("after: got %q, %v", got, err)
	}
	if n := heard.Load(); n != 4 {
		t.Errorf("%d questions were heard, want 4: nothing of the time in between", n)
	}
	if err := a.Publish("q", make([]byte, 2<<20)); !errors.Is(err, cluster.ErrTooLarge) {
		t.Errorf("2 MiB: got %v", err)
	}
}

// What waits is bounded on both sides.
func TestABusIsBounded(t *testing.T) {
	srv := embedded(t)
	slow := make(chan struct{}, 1)
	a, _ := bus(t, srv.URL(), cluster.BusConfig{MaxOutbound: 4})
	b, _ := bus(t, srv.URL(), cluster.BusConfig{OnSlow: func() {
		select {
		case slow <- struct{}{}:
		default:
		}
	}})
	release := make(chan struct{})
	in := b.Inbox(4, func(cluster.Message) { <-release })
	if _, err := in.Subscribe("x", ""); err != nil {
		t.Fatal(err)
	}
	if err := b.Flush(background); err != nil {
		t.Fatal(err)
	}
	full, told := false, false
	soon(t, "both sides are full", func() bool {
		for range 64 {
			full = errors.Is(a.Publish("x", nil), cluster.ErrOverloaded) || full
		}
		select {
		case <-slow:
			told = true
		default:
		}
		return full && told
	})
	if a.Stats().Refused == 0 || b.Stats().Slow == 0 {
		t.Errorf("counted: %+v and %+v", a.Stats(), b.Stats())
	}
	if in.Len() > 4 {
		t.Errorf("%d wait, want 4 at most", in.Len())
	}
	close(release)
}

// While servers that are there take nothing, a write of the bus waits; who publishes does not.
func TestPublishDoesNotWaitForAWrite(t *testing.T) {
	srv := embedded(t)
	host := srv.URL()[strings.Index(srv.URL(), "@")+1:]
	proxy := faultproxy.New(t, host)
	a, _ := bus(t, strings.Replace(srv.URL(), host, proxy.Addr(), 1), cluster.BusConfig{},
		func(cfg *cluster.Config) { cfg.Timeout = 2 * time.Minute })
	defer proxy.Heal()
	data := make([]byte, 1<<20)
	soon(t, "a write waits", func() bool {
		proxy.Heal()
		soon(t, "the bus is up", a.Up)
		proxy.Stall(faultproxy.Both)
		for range 64 { // more than the sockets in between hold
			if err := a.Publish("x", data); err != nil && !errors.Is(err, cluster.ErrUnavailable) {
				t.Fatal(err)
			}
		}
		for was, since := a.Stats(), time.Now(); time.Since(since) < 300*time.Millisecond; time.Sleep(10 * time.Millisecond) {
			now := a.Stats()
			if !now.Up { // it took some seconds, and PINGs were not answered meanwhile
				return false
			}
			if now != was || now.Outbound == 0 {
				was, since = now, time.Now()
			}
		}
		return true
	})
	published := make(chan error, 1)
	go func() { published <- a.Publish("x", data) }()
	select {
	case err := <-published:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Error("it waits")
	}
}

// Nothing that a loop may call, and no exchange, waits while the library connects to servers that take
// a connection and say nothing.
func TestNothingWaitsForAConnect(t *testing.T) {
	srv := embedded(t)
	host := srv.URL()[strings.Index(srv.URL(), "@")+1:]
	proxy := faultproxy.New(t, host)
	c := open(t, strings.Replace(srv.URL(), host, proxy.Addr(), 1), steady, func(cfg *cluster.Config) { cfg.Timeout = 2 * time.Minute })
	defer proxy.Heal()
	proxy.Stall(faultproxy.Both)
	told := make(chan bool)
	go func() {
		defer close(told)
		for c.Running() {
			time.Sleep(5 * time.Millisecond)
		}
		if _, err := c.Lock("free", services.LockOptions{TTL: time.Hour, Wait: time.Hour}, func(uint64, error) {}); err != nil { // tried again and again
			t.Error(err)
		}
		for since := time.Now(); time.Since(since) < 3*time.Second; time.Sleep(5 * time.Millisecond) { // it connects again meanwhile
			if c.Running() || c.Rooms().Held("room", 1) {
				t.Error("it is up, and holds a room")
			}
			c.Members()
			c.Stats()
			if _, err := c.Get(background, "key"); !isDown(err) {
				t.Errorf("get: %v, want ErrCacheDown", err)
			}
		}
	}()
	select {
	case <-told:
	case <-time.After(time.Minute):
		t.Error("it waits")
	}
	proxy.Heal()
	<-told
	soon(t, "they are reachable again", c.Running)
}

// Attempts to connect to servers that take a connection and say nothing leave none open.
func TestNoConnectionIsLeftOpen(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // which would close them, some time
	srv := embedded(t)
	c := open(t, srv.URL(), steady, func(cfg *cluster.Config) { cfg.Timeout = 200 * time.Millisecond })
	bus, err := c.NewBus(cluster.BusConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if err := bus.Start(background); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = bus.Stop(background) }() // nobody is there
	srv.Stop()
	ln, err := net.Listen("tcp", srv.URL()[strings.Index(srv.URL(), "@")+1:])
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var ended atomic.Int64
	const some = 4 // two of each
	for range some {
		conn, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		go func() {
			_, _ = io.Copy(io.Discard, conn)
			ended.Add(1)
		}()
	}
	soon(t, "they are closed", func() bool { return ended.Load() == some })
}

// The keys of clients and the names of users and nodes are in separate key spaces.
func TestSpacesAreApart(t *testing.T) {
	c := open(t, embedded(t).URL(), steady)
	if _, err := c.Set(background, "ann", []byte("a client's"), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Users().Get(background, "ann"); !errors.Is(err, services.ErrNotFound) {
		t.Errorf("a user by a client's key: %v", err)
	}
	if ok, e, err := c.Users().CompareAndSetRevision(background, "ann", 0, []byte("bound"), 0); !ok || err != nil || cluster.Revision(cluster.Epoch(e.Revision)) != e.Revision {
		t.Errorf("%v, %+v, %v", ok, e, err)
	}
	if e, err := c.Get(background, "ann"); string(e.Value) != "a client's" || err != nil {
		t.Errorf("the client's key is %q, %v", e.Value, err)
	}
	o := services.LockOptions{TTL: time.Hour}
	token, err := c.Rooms().Lock(background, "x", o)
	if err != nil || token == 0 || !c.Rooms().Held("x", token) || c.Rooms().Held("x", token+1) {
		t.Errorf("%d, %v", token, err)
	}
	if other, err := services.LockAndWait(background, c, "x", o); other == 0 || err != nil {
		t.Errorf("a client's lock of the same name: %d, %v", other, err)
	}
	if name, err := c.Join(background, "x", 0, nil); name == 0 || err != nil || len(c.Members()) != 1 {
		t.Errorf("%d, %v, members %+v", name, err, c.Members())
	}
	if ok, err := c.Unlock(background, "x", token); ok || err != nil {
		t.Errorf("a room's lock, given back as a client's: %v, %v", ok, err)
	}
	if h := c.Rooms().Holder("x"); !h.Alive || h.Token != token || h.Process != c.Process() {
		t.Errorf("the room's holder is %+v", h)
	}
}

// A message that finds the queue full and is written nevertheless must not be reported as refused.
func TestWhatIsWrittenIsNotRefused(t *testing.T) {
	url := embedded(t).URL()
	a, _ := bus(t, url, cluster.BusConfig{MaxOutbound: 1})
	b, _ := bus(t, url, cluster.BusConfig{})
	answers(t, b, "q")
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() {
			for range 100 {
				if _, err := a.Ask(background, "q", []byte("1")); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	if st := a.Stats(); st.Refused != 0 || st.Sent < 6400 {
		t.Errorf("%d of 6400 were refused, %d sent", st.Refused, st.Sent)
	}
}
