package services_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/codec"
	"millrace/dbasync"
	"millrace/engine"
	"millrace/services"
	"millrace/services/events"
	"millrace/timerwheel"
)

// seedObserver is the first seed's two observers in one.
type seedObserver struct {
	engine.Handler
	accept, close chan *engine.Session
	connect       chan dbasync.Conn
	ended         chan dbasync.QueryResult
}

func (o *seedObserver) OnSocketAccept(s *engine.Session) {
	o.accept <- s
	o.Handler.OnSocketAccept(s)
}

func (o *seedObserver) OnSocketClose(s *engine.Session, why engine.Reason) {
	o.Handler.OnSocketClose(s, why)
	o.close <- s
}

func (o *seedObserver) OnDBConnect(c dbasync.Conn, err error) {
	if err == nil {
		o.connect <- c
	}
}

func (o *seedObserver) OnQueryEnd(r dbasync.QueryResult) { o.ended <- r }

func take[T any](t *testing.T, what string, ch chan T) (v T) {
	t.Helper()
	select {
	case v = <-ch:
	case <-time.After(time.Minute):
		t.Fatalf("%s did not come", what)
	}
	return v
}

// Every interface of the first seed, through the manager and a real socket.
func TestFirstSeed(t *testing.T) {
	pg := database(t)
	o := &seedObserver{accept: make(chan *engine.Session, 10), close: make(chan *engine.Session, 10),
		connect: make(chan dbasync.Conn, 100), ended: make(chan dbasync.QueryResult, 100)}
	var m *services.Manager
	server := localServer
	m = manage(t, services.Config{Server: &server, DB: events.Database(dbasync.Config{URL: pg, Lanes: 1, Observer: o}, events.Config{})})
	o.Handler = m.Controller()
	m.TCP().SetHandler(o)
	services.SetDefault(m)
	defer services.SetDefault(nil)

	mgr := services.Default() // IServiceMgr::Instance
	for _, s := range []services.Service{mgr.Async(), mgr.TCP(), mgr.Timers(), mgr.DB()} {
		if s.Running() {
			t.Errorf("%T runs before Start", s)
		}
	}
	must(t, mgr.Start(background))
	for _, s := range []services.Service{mgr.Async(), mgr.TCP(), mgr.Timers(), mgr.DB()} {
		if !s.Running() {
			t.Errorf("%T does not run", s)
		}
	}

	t.Run("GetIOService", func(t *testing.T) {
		done := make(chan int, 1)
		must(t, mgr.Async().Submit(func() { done <- 1 }))
		take(t, "the function", done)
	})
	t.Run("ITCPServerService and SocketItem", func(t *testing.T) {
		srv := mgr.TCP()
		rig := &rig{TB: t, srv: srv}
		before := time.Now()
		w := rig.wire()
		s := take(t, "OnSocketAccept", o.accept)
		if !s.Connected() || s.ID().Index() != s.Index() || s.Round() == 0 || s.ConnectedAt().Before(before.Add(-time.Second)) ||
			s.RemoteAddr().String() != w.LocalAddr().String() {
			t.Errorf("session %v, connected %v at %v from %v", s.ID(), s.Connected(), s.ConnectedAt(), s.RemoteAddr())
		}
		must(t, srv.Send(s.ID(), 7, 1, []byte("data")))
		must(t, s.Send(7, 2, nil)) // no Data, no DataSize
		must(t, srv.Broadcast(7, 3, []byte("all")))
		w.want("7/1 data", "7/2 ", "7/3 all")
		must(t, srv.CloseSocket(s.ID()))
		w.want("EOF")
		if take(t, "OnSocketClose", o.close) != s || s.Connected() {
			t.Error("not the session that was closed, or still connected")
		}
		_ = w.Close()
		rig.gone()
		w = rig.wire()
		next := take(t, "OnSocketAccept", o.accept)
		if next.Index() != s.Index() || next.Round() == s.Round() {
			t.Fatalf("session %v after %v: want the same slot in another round", next.ID(), s.ID())
		}
		if err := srv.Send(s.ID(), 7, 4, []byte("for client1")); err == nil {
			t.Error("a late result was taken")
		}
		must(t, next.Send(7, 5, []byte("for client2")))
		must(t, next.Close())
		w.want("7/5 for client2", "EOF")
		take(t, "OnSocketClose", o.close)
	})
	t.Run("ITimerService", func(t *testing.T) {
		timers := mgr.Timers()
		fired := make(chan string, 1000)
		set := func(id timerwheel.TimerID, every time.Duration, repeat int, name string) {
			must(t, timers.SetTimer(id, every, repeat, func(f timerwheel.Firing) { fired <- fmt.Sprint(name, f.N) }))
		}
		set(1, 10*time.Millisecond, 3, "a")
		for i := range 3 {
			if got := take(t, "a firing", fired); got != fmt.Sprint("a", i+1) {
				t.Errorf("got %s", got)
			}
		}
		set(2, time.Hour, 1, "old")
		set(2, 10*time.Millisecond, 1, "new") // an id in use: cancelled, changed, started
		if got := take(t, "the new timer", fired); got != "new1" {
			t.Errorf("got %s", got)
		}
		set(3, 20*time.Millisecond, 0, "killed")
		set(4, 20*time.Millisecond, 0, "killed")
		set(5, 20*time.Millisecond, 0, "killed")
		if !timers.KillTimer(3) || timers.KillAllTimers() != 2 {
			t.Error("kill: want true, then 2")
		}
		for len(fired) > 0 {
			<-fired
		}
		time.Sleep(300 * time.Millisecond)
		if n := len(fired); n > 3 { // a run of each may have been under way
			t.Errorf("%d firings after the kill", n)
		}
	})
	t.Run("IDatabaseService", func(t *testing.T) {
		c := take(t, "OnDBConnect", o.connect)
		if c.Index() != 0 || !c.Connected() || !events.DB(mgr).Conn(0).Connected() {
			t.Errorf("connection %d, connected %v", c.Index(), c.Connected())
		}
		query := func(sql string, args ...any) dbasync.QueryResult {
			must(t, events.DB(mgr).Query(background, nil, nil, dbasync.Stmt{SQL: sql, Slow: strings.HasPrefix(sql, "create")}, args...))
			for {
				if r := take(t, "OnQueryEnd", o.ended); r.SQL == sql {
					return r
				}
			}
		}
		query("create function storage_procedure(a int, b int) returns int language sql as 'select a + b'")
		var sum int
		if err := query("select storage_procedure($1, $2)", 2, 3).Scan(&sum); err != nil || sum != 5 {
			t.Errorf("got %d, %v", sum, err)
		}
		if r := query("select 1 / 0"); r.Outcome != dbasync.SQLError || r.Err == nil {
			t.Errorf("a failing query: %v, %v", r.Outcome, r.Err)
		}
	})
	must(t, mgr.Stop(background))
}

// Every sentence of the second seed, over a real socket, with dictionaries.
func TestSecondSeed(t *testing.T) {
	type dict = map[string]any
	const userRegister, gameMatch, play = 1<<16 | 1, 1<<16 | 2, 1<<16 | 3
	var mu sync.Mutex
	ran := ""
	note := func(name string) func(*services.Context, *dict, *dict) error {
		return func(*services.Context, *dict, *dict) error {
			mu.Lock()
			defer mu.Unlock()
			ran += name + " "
			return nil
		}
	}
	server := localServer
	m := manage(t, services.Config{Server: &server, Mode: services.OneProcess})
	must(t, services.Register(m.Controller(), userRegister, services.Stages[dict, dict]{
		Pre: note("pre"),
		Handle: func(ctx *services.Context, req, res *dict) error {
			user := (*req)["username"].(string)
			taken, _, err := ctx.Cache().CompareAndSet(ctx, "user/"+user, nil, []byte("1"), 0)
			*res = dict{"registered": taken}
			return err
		},
		Last: note("last"),
	}))
	must(t, services.Register(m.Controller(), gameMatch, services.Stages[dict, dict]{
		Handle: func(ctx *services.Context, req, res *dict) error {
			got, err := services.Inline[dict, dict](ctx, userRegister, dict{"username": (*req)["user_id"], "password": "123456"})
			if err != nil {
				return err
			}
			*res = got
			_, err = services.After(ctx, 0.05, play, dict{"user_id": (*req)["user_id"], "mode": 1})
			return err
		}}))
	must(t, services.Register(m.Controller(), play, services.Stages[dict, dict]{
		Handle: func(_ *services.Context, req, res *dict) error {
			*res = dict{"play": (*req)["user_id"]}
			return nil
		}}, services.Internal()))
	must(t, m.Start(background))
	w := (&rig{TB: t, srv: m.TCP()}).wire()
	// [length][handle][body]: the handle is one number.
	body := `{"username":"cwl","password":"123456"}`
	frame := append([]byte{0, 0, 0, byte(4 + len(body)), 0, 1, 0, 1}, body...)
	if string(codec.Packet{Main: 1, Sub: 1, Body: []byte(body)}.Append(nil)) != string(frame) {
		t.Error("the frame is not [length][handle][body]")
	}
	if _, err := w.Write(frame); err != nil {
		t.Fatal(err)
	}
	w.want(`1/1 {"registered":true}`)
	start := time.Now()
	w.send(gameMatch, `{"user_id":"cwl"}`)
	w.want(`1/2 {"registered":false}`, `1/3 {"play":"cwl"}`)
	if d := time.Since(start); d < 50*time.Millisecond {
		t.Errorf("the delay event came after %v", d)
	}
	mu.Lock()
	defer mu.Unlock()
	if ran != "pre last pre last " {
		t.Errorf("stages: %q", ran)
	}
	// A lock ends with its session.
	token, err := services.LockAndWait(background, m.Cache(), "k", services.LockOptions{TTL: time.Minute})
	must(t, err)
	if ok, err := m.Cache().Unlock(background, "k", token); !ok || err != nil {
		t.Errorf("unlock: %v, %v", ok, err)
	}
}
