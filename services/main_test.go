package services_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"millrace/dbasync/pgembed"
	"millrace/engine"
	"millrace/services"
	"millrace/services/client"
	"millrace/services/serial"
	"millrace/timerwheel"
)

var long = flag.Bool("long", false, "run the long form of the soaks")

// tests runs them, and ends what they share.
type tests struct{ *testing.M }

func (m tests) Run() int {
	code := m.M.Run()
	if postgres.srv != nil {
		_ = postgres.srv.Stop(background, pgembed.Immediate)
	}
	return code
}

// postgres is one server for all tests.
var postgres struct {
	srv *pgembed.Server
	n   int // databases made
}

// database makes a database of the test's own, and returns its URL. Without PostgreSQL it
// skips the test, but fails it in CI.
func database(tb testing.TB) string {
	tb.Helper()
	if postgres.srv == nil {
		srv, err := pgembed.Start(background, pgembed.Config{})
		if errors.Is(err, pgembed.ErrNotInstalled) && os.Getenv("CI") == "" {
			tb.Skip(err)
		}
		must(tb, err)
		postgres.srv = srv
	}
	all := postgres.srv.URL()
	conn, err := pgx.Connect(background, all)
	must(tb, err)
	defer conn.Close(background)
	postgres.n++
	name := fmt.Sprint("test", postgres.n)
	_, err = conn.Exec(background, "create database "+name)
	must(tb, err)
	return strings.Replace(all, "/"+conn.Config().Database+"?", "/"+name+"?", 1)
}

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(tests{m},
		// gnet keeps one ants pool for the life of the process
		goleak.IgnoreAnyFunction("github.com/panjf2000/ants/v2.(*poolCommon).purgeStaleWorkers"),
		goleak.IgnoreAnyFunction("github.com/panjf2000/ants/v2.(*poolCommon).ticktock"),
		goleak.IgnoreAnyFunction("github.com/panjf2000/ants/v2.(*goWorker).run.func1"))
}

var (
	background = context.Background()
	quiet      = slog.New(slog.NewTextHandler(io.Discard, nil))
)

// rig is a server with a controller, on a real socket.
type rig struct {
	testing.TB
	c      *services.Controller
	srv    *engine.Server
	pool   *engine.Pool
	timers *timerwheel.Service
	cache  *services.Memory
}

type starter interface {
	Start(context.Context) error
	Stop(context.Context) error
}

func (r *rig) start(s starter, err error) {
	r.Helper()
	if err == nil {
		err = s.Start(background)
	}
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() {
		ctx, cancel := context.WithTimeout(background, 30*time.Second)
		defer cancel()
		if err := s.Stop(ctx); err != nil {
			r.Errorf("stop %T: %v", s, err)
		}
	})
}

// serve starts one; change may alter the settings, register adds services.
func serve(tb testing.TB, change func(*services.ControllerConfig, *engine.Config), register func(*services.Controller)) *rig {
	tb.Helper()
	r := &rig{TB: tb}
	var err error
	r.pool, err = engine.NewPool(engine.PoolConfig{Logger: quiet})
	r.start(r.pool, err)
	r.timers, err = timerwheel.New(timerwheel.Config{Logger: quiet}, r.pool)
	r.start(r.timers, err)
	r.cache, err = services.NewMemory(services.MemoryConfig{})
	r.start(r.cache, err)
	cc := services.ControllerConfig{Timers: r.timers, Cache: r.cache, Pool: r.pool, Logger: quiet}
	ec := engine.Config{Addrs: []string{"tcp://127.0.0.1:0"}, Loops: 2, Pool: r.pool, Logger: quiet}
	if change != nil {
		change(&cc, &ec)
	}
	if r.c, err = services.NewController(cc); err != nil {
		tb.Fatal(err)
	}
	register(r.c)
	ec.Handles = r.c.Dispatch()
	r.srv, err = engine.New(ec, r.c)
	r.start(r.srv, err)
	return r
}

// dial connects a client.
func (r *rig) dial(change func(*client.Config)) *client.Client {
	r.Helper()
	cfg := client.Config{Addrs: []string{r.srv.Addrs()[0].String()}}
	if change != nil {
		change(&cfg)
	}
	ctx, cancel := context.WithTimeout(background, 30*time.Second)
	defer cancel()
	c, err := client.Dial(ctx, cfg)
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(c.Close)
	return c
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func limited(tb testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(background, time.Minute)
	tb.Cleanup(cancel)
	return ctx
}

func jsonDecode(b []byte, v any) error { return serial.JSON(serial.Limits{}).Decode(b, v) }
