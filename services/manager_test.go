package services_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/dbasync"
	"millrace/engine"
	"millrace/services"
	"millrace/services/client"
	"millrace/services/events"
	"millrace/timerwheel"
)

// What the manager starts and stops are services.
var (
	_ services.Service = (*engine.Pool)(nil)
	_ services.Service = (*engine.Server)(nil)
	_ services.Service = (*timerwheel.Service)(nil)
	_ services.Service = (*dbasync.DB)(nil)
	_ services.Service = (*services.Memory)(nil)
	_ services.Service = services.DurableEvents(nil)
)

// journal records what happens in which order.
type journal struct {
	mu   sync.Mutex
	text []string
}

func (j *journal) add(s string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.text = append(j.text, s)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Join(j.text, " ")
}

// mine is a service of the program's own.
type mine struct {
	name  string
	j     *journal
	fails int           // so many starts fail
	stuck chan struct{} // not nil: Stop waits for it
	sick  error         // told by Healthy
	ended chan struct{} // not nil: it is an Ender

	mu      sync.Mutex
	running bool
}

func (s *mine) Start(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fails != 0 {
		s.fails--
		s.j.add("fail:" + s.name)
		return errors.New("can't")
	}
	s.running = true
	s.ended = make(chan struct{})
	s.j.add("+" + s.name)
	return ctx.Err()
}

func (s *mine) Stop(context.Context) error {
	s.j.add("-" + s.name)
	if s.stuck != nil {
		<-s.stuck
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running = false
	return nil
}

func (s *mine) Running() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.running
}

func (s *mine) Healthy() error { return s.sick }

// die ends the service by itself.
func (s *mine) die() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running = false
	close(s.ended)
}

// notifying is a mine that is an Ender.
type notifying struct{ *mine }

func (s notifying) Done() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

func manage(t *testing.T, cfg services.Config) *services.Manager {
	t.Helper()
	cfg.Logger = quiet
	m, err := services.New(cfg)
	must(t, err)
	t.Cleanup(func() { _ = m.Stop(background) })
	return m
}

var localServer = engine.Config{Addrs: []string{"tcp://127.0.0.1:0"}}

func TestManagerStartsAndStopsInOrder(t *testing.T) {
	pg := database(t)
	j := &journal{}
	spec := func(name string, after ...string) services.Spec {
		return services.Spec{Name: name, Service: &mine{name: name, j: j}, After: after}
	}
	m := manage(t, services.Config{
		Server: &localServer,
		DB:     events.Database(dbasync.Config{URL: pg, Lanes: 1}, events.Config{}),
		Services: []services.Spec{
			spec("late", "tcp", "a"), spec("c", "b"), spec("b", "a"), spec("a"), spec("later", "late"),
		},
	})
	var names []string
	for _, h := range m.Health() {
		names = append(names, h.Name)
		if h.Running || h.Err == nil {
			t.Errorf("before Start: %+v", h)
		}
	}
	at := func(name string) int { return slices.Index(names, name) }
	if at("pool") != 0 || at("a") < at("events") || at("tcp") < at("c") || at("late") < at("tcp") || len(names) != 11 {
		t.Errorf("order: %v", names)
	}
	must(t, m.Start(background))
	if !m.Running() {
		t.Error("not running")
	}
	for end := time.Now().Add(time.Minute); m.Healthy() != nil && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond) // the database connects
	}
	must(t, m.Healthy())
	if err := m.Start(background); !errors.Is(err, services.ErrStarted) {
		t.Errorf("start again: got %v", err)
	}
	for name, s := range map[string]services.Service{"pool": m.Async(), "tcp": m.TCP(), "timers": m.Timers(), "db": m.DB(), "cache": m.Cache(), "events": m.Events()} {
		if m.Service(name) != s || !s.Running() {
			t.Errorf("%s: not the one that was asked for, or not running", name)
		}
	}
	must(t, services.Register(m.Controller(), hSum, sum))
	c, err := client.Dial(limited(t), client.Config{Addrs: []string{m.TCP().Addrs()[0].String()}})
	must(t, err)
	if res := call[total](t, c, hSum, pair{1, 2}); res.Sum != 3 {
		t.Errorf("got %+v", res)
	}
	c.Close()
	must(t, m.Stop(background))
	must(t, m.Stop(background))
	if got, want := j.String(), "+a +b +c +late +later -later -late -c -b -a"; got != want {
		// The order among those that don't need each other is that of Services.
		t.Errorf("got  %s\nwant %s", got, want)
	}
	select {
	case <-m.Done():
	default:
		t.Error("Done is open after Stop")
	}
	if m.Running() || m.Err() != nil {
		t.Errorf("after Stop: running %v, err %v", m.Running(), m.Err())
	}
	for _, s := range []services.Service{m.Async(), m.TCP(), m.Timers(), m.DB(), m.Cache()} {
		if s.Running() {
			t.Errorf("%T still runs", s)
		}
	}
}

func TestManagerRollsBack(t *testing.T) {
	j := &journal{}
	m := manage(t, services.Config{Server: &localServer, Services: []services.Spec{
		{Name: "a", Service: &mine{name: "a", j: j}},
		{Name: "b", Service: &mine{name: "b", j: j, fails: 1}, After: []string{"a"}},
		{Name: "c", Service: &mine{name: "c", j: j}, After: []string{"b"}},
	}})
	err := m.Start(background)
	if err == nil || !strings.Contains(err.Error(), "start b") {
		t.Errorf("got %v", err)
	}
	if j.String() != "+a fail:b -b -a" {
		t.Errorf("got %s", j)
	}
	if m.Running() || m.Async().Running() || m.Timers().Running() || m.Cache().Running() {
		t.Error("something still runs")
	}
}

func TestManagerStopHasADeadline(t *testing.T) {
	j := &journal{}
	stuck := make(chan struct{})
	defer close(stuck)
	m := manage(t, services.Config{StopTimeout: time.Second, Services: []services.Spec{
		{Name: "a", Service: &mine{name: "a", j: j}},
		{Name: "stuck", Service: &mine{name: "stuck", j: j, stuck: stuck}, After: []string{"a"}},
	}})
	must(t, m.Start(background))
	start := time.Now()
	err := m.Stop(background)
	if err == nil || !strings.Contains(err.Error(), "stuck") || time.Since(start) > 20*time.Second {
		t.Errorf("got %v after %v", err, time.Since(start))
	}
	if j.String() != "+a +stuck -stuck -a" || m.Async().Running() {
		t.Errorf("got %s; the pool runs: %v", j, m.Async().Running())
	}
}

func TestManagerRestartsWithinTheIntensity(t *testing.T) {
	for _, ender := range []bool{false, true} {
		t.Run(fmt.Sprint("tells of its end: ", ender), func(t *testing.T) {
			j := &journal{}
			s := &mine{name: "s", j: j}
			other := &mine{name: "o", j: j}
			var sv services.Service = s
			check := 5 * time.Millisecond
			if ender {
				sv, check = notifying{s}, time.Hour
			}
			m := manage(t, services.Config{Check: check, Services: []services.Spec{
				{Name: "s", Service: sv, MaxRestarts: 3}, {Name: "o", Service: other, After: []string{"s"}},
			}})
			must(t, m.Start(background))
			for i := range 2 {
				s.die()
				for end := time.Now().Add(time.Minute); !s.Running(); time.Sleep(time.Millisecond) {
					if time.Now().After(end) {
						t.Fatalf("not restarted after death %d", i)
					}
				}
			}
			must(t, m.Restart(background, "s"))
			if h := m.Health(); h[3].Name != "s" || h[3].Restarts != 3 || m.Healthy() != nil {
				t.Errorf("health: %+v", h)
			}
			if err := m.Restart(background, "s"); !errors.Is(err, services.ErrIntensity) {
				t.Errorf("one too many: got %v", err)
			}
			for _, name := range []string{"pool", "nobody"} {
				if err := m.Restart(background, name); !errors.Is(err, services.ErrNoService) {
					t.Errorf("restart %s: got %v", name, err)
				}
			}
			s.die()
			select {
			case <-m.Done():
			case <-time.After(time.Minute):
				t.Fatal("the manager goes on")
			}
			if !errors.Is(m.Err(), services.ErrIntensity) || m.Running() {
				t.Errorf("err %v, running %v", m.Err(), m.Running())
			}
			must(t, m.Stop(background))
			if got := j.String(); got != "+s +o -s +s -s +s -s +s -o -s" {
				t.Errorf("got %s", got)
			}
		})
	}
}

func TestManagerTriesAFailingRestartAgain(t *testing.T) {
	j := &journal{}
	s := &mine{name: "s", j: j}
	m := manage(t, services.Config{Services: []services.Spec{{Name: "s", Service: s, MaxRestarts: 3}}})
	must(t, m.Start(background))
	s.mu.Lock()
	s.fails = 2
	s.mu.Unlock()
	must(t, m.Restart(background, "s"))
	if j.String() != "+s -s fail:s -s fail:s -s +s" {
		t.Errorf("got %s", j)
	}
}

func TestManagerTellsOfHealth(t *testing.T) {
	s := &mine{name: "s", j: &journal{}, sick: errors.New("a cold")}
	m := manage(t, services.Config{
		DB:       events.Database(dbasync.Config{URL: "postgres://127.0.0.1:1/x"}, events.Config{}),
		Services: []services.Spec{{Name: "s", Service: s}},
	})
	must(t, m.Start(background)) // without its database
	if err := m.Healthy(); err == nil || !strings.Contains(err.Error(), services.NameEvents) || !strings.Contains(err.Error(), services.NameDB) {
		t.Errorf("got %v, want the database and the events named", err)
	}
	m = manage(t, services.Config{Services: []services.Spec{{Name: "s", Service: s}}})
	must(t, m.Start(background))
	if err := m.Healthy(); err == nil || !strings.Contains(err.Error(), "s: a cold") {
		t.Errorf("got %v", err)
	}
}

func TestManagerRefusesWhatCantBe(t *testing.T) {
	a := func(name string, after ...string) services.Spec {
		return services.Spec{Name: name, Service: &mine{}, After: after}
	}
	for name, c := range map[string]struct {
		cfg  services.Config
		want string
	}{
		"a circle":        {services.Config{Services: []services.Spec{a("x", "y"), a("y", "z"), a("z", "x")}}, "x > y > z > x"},
		"oneself":         {services.Config{Services: []services.Spec{a("x", "x")}}, "x > x"},
		"a missing one":   {services.Config{Services: []services.Spec{a("x", "nobody")}}, "nobody"},
		"no server":       {services.Config{Services: []services.Spec{a("x", "tcp")}}, "tcp"},
		"two of a name":   {services.Config{Services: []services.Spec{a("x"), a("x")}}, "two services"},
		"a kernel's name": {services.Config{Services: []services.Spec{a("pool")}}, "two services"},
		"no name":         {services.Config{Services: []services.Spec{a("")}}, "without a name"},
		"no service":      {services.Config{Services: []services.Spec{{Name: "x"}}}, "nil service"},
		"no shared cache": {services.Config{Mode: services.ManyProcesses}, "shared cache"},
		"an unknown mode": {services.Config{Mode: 9}, "mode 9"},
		"bad settings":    {services.Config{Pool: engine.PoolConfig{Workers: -1}, Memory: services.MemoryConfig{MaxKey: -1}}, "negative"},
		"a bad server":    {services.Config{Server: &engine.Config{}}, "Addrs"},
	} {
		t.Run(name, func(t *testing.T) {
			c.cfg.Logger = quiet
			if _, err := services.New(c.cfg); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q in it", err, c.want)
			}
		})
	}
}

func TestModeChoosesTheCache(t *testing.T) {
	shared := newMemory(t, services.MemoryConfig{}) // stands for one
	m := manage(t, services.Config{Mode: services.ManyProcesses, Shared: shared})
	if m.Cache() != services.Cache(shared) {
		t.Error("many processes: not the shared cache")
	}
	if _, ok := manage(t, services.Config{}).Cache().(*services.Memory); !ok {
		t.Error("one process: not a Memory")
	}
}

func TestDefaultManager(t *testing.T) {
	if services.Default() != nil {
		t.Fatal("there is one without SetDefault")
	}
	m := manage(t, services.Config{})
	services.SetDefault(m)
	defer services.SetDefault(nil)
	if services.Default() != m {
		t.Error("not the one that was set")
	}
}

// One Stop while a service keeps dying: no deadlock, nothing left running.
func TestManagerStopDuringRestarts(t *testing.T) {
	for range 20 {
		s := &mine{name: "s", j: &journal{}}
		m := manage(t, services.Config{Check: time.Millisecond, Services: []services.Spec{{Name: "s", Service: s, MaxRestarts: 1000}}})
		must(t, m.Start(background))
		for range 3 {
			if s.Running() {
				s.die()
			}
			time.Sleep(500 * time.Microsecond)
		}
		must(t, m.Stop(limited(t)))
		if s.Running() {
			t.Fatal("it runs after Stop")
		}
	}
}
