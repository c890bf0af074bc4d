package events_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/dbasync"
	"millrace/dbasync/pgembed"
	"millrace/engine"
	"millrace/services"
	"millrace/services/events"
)

// durableRig is a controller with durable events and one service for them.
type durableRig struct {
	db   *dbasync.DB
	d    *events.Service
	c    *services.Controller
	stop func()
}

func startDurable(url string, change func(*events.Config), st services.Stages[event, services.None]) (*durableRig, error) {
	began := time.Now()
	pool, err := engine.NewPool(engine.PoolConfig{Logger: quiet})
	if err != nil {
		return nil, err
	}
	db, err := dbasync.New(dbasync.Config{URL: url, Lanes: 1, Pool: pool})
	if err != nil {
		return nil, err
	}
	cfg := events.Config{DB: db, URL: url, Pool: pool, Poll: 100 * time.Millisecond, Lease: 20 * time.Second, Retry: 20 * time.Millisecond, MaxAttempts: 4, Logger: quiet}
	if change != nil {
		change(&cfg)
	}
	d, err := events.New(cfg)
	if err != nil {
		return nil, err
	}
	c, err := services.NewController(services.ControllerConfig{DB: db, Durable: d, Pool: pool, Logger: quiet})
	if err != nil {
		return nil, err
	}
	r := &durableRig{db: db, d: d, c: c, stop: func() {
		ctx, cancel := context.WithTimeout(background, 10*time.Second)
		defer cancel()
		_, _, _ = d.Stop(ctx), db.Stop(ctx), pool.Stop(ctx)
	}}
	if err := errors.Join(services.Register(c, hPush, st), pool.Start(background), db.Start(background), d.Start(background)); err != nil {
		return r, err
	}
	for range time.Tick(10 * time.Millisecond) { // Start waits for the table for 2 s
		if err = d.Healthy(); err == nil || time.Since(began) > time.Minute {
			break
		}
	}
	return r, err
}

// store puts an event and waits until the database has it.
func (r *durableRig) store(key string, seconds float64, id int) (bool, error) {
	type result struct {
		stored bool
		err    error
	}
	got := make(chan result, 1)
	_, err := services.After(r.c.Context(nil), seconds, hPush, event{ID: id},
		services.Durable(key, func(stored bool, err error) { got <- result{stored, err} }))
	if err != nil {
		return false, err
	}
	res := <-got
	return res.stored, res.err
}

// runs records what ran.
type runs struct {
	mu   sync.Mutex
	keys map[string]int
	all  chan string
}

func newRuns() *runs { return &runs{keys: map[string]int{}, all: make(chan string, 1000)} }

func (r *runs) stages() services.Stages[event, services.None] {
	return services.Stages[event, services.None]{
		Handle: func(ctx *services.Context, req *event, _ *services.None) error {
			r.mu.Lock()
			r.keys[ctx.Key()]++
			r.mu.Unlock()
			r.all <- fmt.Sprintf("%s=%d", ctx.Key(), req.ID)
			return nil
		}}
}

func (r *runs) wait(t *testing.T, n int) {
	t.Helper()
	for i := range n {
		select {
		case <-r.all:
		case <-time.After(time.Minute):
			t.Fatalf("%d of %d ran", i, n)
		}
	}
}

func TestDurableEvents(t *testing.T) {
	pg := pgembed.ForTest(t, pgembed.Config{})
	t.Run("run once each, in two processes' worth of pollers, never early", func(t *testing.T) {
		var mu sync.Mutex
		due := map[string]time.Time{}
		ran := newRuns()
		st := ran.stages()
		st.Pre = func(ctx *services.Context, _ *event, _ *services.None) error {
			mu.Lock()
			defer mu.Unlock()
			if late, ok := ctx.Late(); !ok || late < 0 || time.Now().Before(due[ctx.Key()]) {
				t.Errorf("%s: late %v (%v), due %v", ctx.Key(), late, ok, due[ctx.Key()])
			}
			return nil
		}
		var rigs []*durableRig
		for range 2 {
			r, err := startDurable(pg.URL(), nil, st)
			must(t, err)
			defer r.stop()
			rigs = append(rigs, r)
		}
		const n = 100
		for i := range n {
			key, d := fmt.Sprint("k", i), time.Duration(i%10)*30*time.Millisecond
			mu.Lock()
			due[key] = time.Now().Add(d)
			mu.Unlock()
			stored, err := rigs[i%2].store(key, d.Seconds(), i)
			if !stored || err != nil {
				t.Fatalf("store: %v, %v", stored, err)
			}
		}
		ran.wait(t, n)
		time.Sleep(300 * time.Millisecond)
		for key, times := range ran.keys {
			if times != 1 {
				t.Errorf("%s ran %d times", key, times)
			}
		}
		if len(ran.keys) != n {
			t.Errorf("%d keys ran", len(ran.keys))
		}
	})
	t.Run("a key is pending once, and can be cancelled", func(t *testing.T) {
		ran := newRuns()
		r, err := startDurable(pg.URL(), nil, ran.stages())
		must(t, err)
		defer r.stop()
		for _, want := range []bool{true, false} {
			if stored, err := r.store("one", 60, 1); stored != want || err != nil {
				t.Errorf("store: got %v, %v, want %v", stored, err, want)
			}
		}
		for _, want := range []bool{true, false} {
			got := make(chan bool, 1)
			must(t, r.d.Cancel(nil, "one", func(removed bool, err error) {
				if err != nil {
					t.Error(err)
				}
				got <- removed
			}))
			if removed := <-got; removed != want {
				t.Errorf("cancel: got %v, want %v", removed, want)
			}
		}
		stored, err := r.store("one", 0, 2)
		if !stored || err != nil {
			t.Errorf("store: %v, %v", stored, err)
		}
		ran.wait(t, 1)
	})
	t.Run("a failure is tried again, then given up", func(t *testing.T) {
		tries := make(chan string, 100)
		r, err := startDurable(pg.URL(), nil, services.Stages[event, services.None]{
			Handle: func(ctx *services.Context, req *event, _ *services.None) error {
				tries <- ctx.Key()
				switch req.ID {
				case 1:
					panic("on purpose")
				case 2:
					ctx.Defer().Done(nil, errors.New("no"))
					return nil
				}
				return errors.New("no")
			}})
		must(t, err)
		defer r.stop()
		for i := range 3 {
			if _, err := r.store(fmt.Sprint("bad", i), 0, i); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 3 * 4 {
			select {
			case <-tries:
			case <-time.After(time.Minute):
				t.Fatalf("%d tries, want 12", i)
			}
		}
		time.Sleep(500 * time.Millisecond)
		if len(tries) > 0 {
			t.Errorf("%d more tries", len(tries))
		}
	})
}

// shortLease is for the test that waits for one to end.
func shortLease(cfg *events.Config) { cfg.Lease = 2 * time.Second }

// durableChild is another process: it stores n events and says so; those with
// an even number begin at once and never end.
func durableChild(url string) {
	begun := make(chan int, 100)
	r, err := startDurable(url, shortLease, services.Stages[event, services.None]{
		Handle: func(_ *services.Context, req *event, _ *services.None) error {
			begun <- req.ID
			select {}
		}})
	if err != nil {
		fmt.Println(err)
		return
	}
	for i := range 10 {
		if _, err := r.store(fmt.Sprint("killed", i), float64(i%2)*1.5, i); err != nil {
			fmt.Println(err)
			return
		}
	}
	for range 5 {
		<-begun
	}
	fmt.Println("stored")
	_, _ = io.Copy(io.Discard, os.Stdin) // until the test has gone, if it could not kill us
}

func TestDurableEventsSurviveKill9(t *testing.T) {
	pg := pgembed.ForTest(t, pgembed.Config{})
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), "MILLRACE_DURABLE_CHILD="+pg.URL())
	child.Stderr = os.Stderr
	in, err := child.StdinPipe()
	must(t, err)
	defer in.Close()
	out, err := child.StdoutPipe()
	must(t, err)
	must(t, child.Start())
	defer child.Process.Kill()
	line, _ := bufio.NewReader(out).ReadString('\n')
	if strings.TrimSpace(line) != "stored" {
		t.Errorf("child: %q", line)
	}
	must(t, child.Process.Kill()) // SIGKILL: five are being run, five are still to come
	_ = child.Wait()

	ran := newRuns()
	r, err := startDurable(pg.URL(), shortLease, ran.stages())
	must(t, err)
	defer r.stop()
	ran.wait(t, 10)
	for i := range 10 {
		if n := ran.keys[fmt.Sprint("killed", i)]; n != 1 {
			t.Errorf("killed%d ran %d times after the kill", i, n)
		}
	}
}

func TestDurableNeedsADatabase(t *testing.T) {
	c, err := services.NewController(services.ControllerConfig{})
	must(t, err)
	must(t, services.Register(c, hPush, newRuns().stages()))
	_, err = services.After(c.Context(nil), 1, hPush, event{}, services.Durable("k", nil))
	if services.ErrorOf(err).Code != engine.CodeUnavailable {
		t.Errorf("got %v", err)
	}
	if _, err := events.New(events.Config{}); err == nil {
		t.Error("no database: want an error")
	}
}
