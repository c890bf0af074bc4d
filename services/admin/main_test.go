package admin_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"millrace/codec"
	"millrace/engine"
	"millrace/services"
	"millrace/services/admin"
	"millrace/timerwheel"
)

var long = flag.Bool("long", false, "run a second Prometheus, for native histograms")

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// gnet keeps one ants pool for the life of the process
		goleak.IgnoreAnyFunction("github.com/panjf2000/ants/v2.(*poolCommon).purgeStaleWorkers"),
		goleak.IgnoreAnyFunction("github.com/panjf2000/ants/v2.(*poolCommon).ticktock"),
		goleak.IgnoreAnyFunction("github.com/panjf2000/ants/v2.(*goWorker).run.func1"))
}

// patience is how long the tests wait for what should come at once.
const patience = time.Minute

var (
	background = context.Background()
	quiet      = slog.New(slog.NewTextHandler(io.Discard, nil))
)

// rig is a server with a door, both on real sockets.
type rig struct {
	testing.TB
	srv    *engine.Server
	c      *services.Controller
	door   *admin.Door
	client *admin.Client
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
		ctx, cancel := context.WithTimeout(background, 2*time.Second)
		defer cancel()
		_ = s.Stop(ctx) // clients of the tests may be connected still
	})
}

type request struct {
	Fail bool `json:"fail"`
}

// open starts a server with the services 1/1 (echo), 1/2 (fails if told to) and 1/3 (is
// never answered), and a door that change may alter.
func open(t testing.TB, change func(*admin.Config, *engine.Config)) *rig {
	t.Helper()
	r := &rig{TB: t}
	pool, err := engine.NewPool(engine.PoolConfig{Logger: quiet})
	r.start(pool, err)
	timers, err := timerwheel.New(timerwheel.Config{Logger: quiet}, pool)
	r.start(timers, err)
	r.c, err = services.NewController(services.ControllerConfig{Pool: pool, Timers: timers, Measure: true, Logger: quiet})
	err = errors.Join(err,
		r.c.Raw(services.Handle(1, 1), func(s *engine.Session, p codec.Packet) error { return s.Reply(p, p.Body) }, services.Name("echo")),
		services.Register(r.c, services.Handle(1, 2), services.Stages[request, services.None]{Handle: func(_ *services.Context, req *request, _ *services.None) error {
			if req.Fail {
				return &services.Error{Code: engine.CodeConflict, Text: "told to fail"}
			}
			return nil
		}}),
		r.c.Raw(services.Handle(1, 3), func(s *engine.Session, p codec.Packet) error { s.Hold(); return nil }))
	if err != nil {
		t.Fatal(err)
	}
	ec := engine.Config{Addrs: []string{"tcp://127.0.0.1:0"}, Loops: 2, Pool: pool, Logger: quiet}
	cfg := admin.Config{Addr: "127.0.0.1:0", Controller: r.c, Timers: timers, Logger: quiet}
	if change != nil {
		change(&cfg, &ec)
	}
	r.srv, err = engine.New(ec, r.c)
	r.start(r.srv, err)
	cfg.Server = r.srv
	r.door, err = admin.New(cfg)
	r.start(r.door, err)
	r.client, err = admin.NewClient(r.door.Addr(), cfg.Token)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.client.Close)
	return r
}

// get asks the door and wants an answer.
func (r *rig) get(path string, v any) {
	r.Helper()
	ctx, cancel := context.WithTimeout(background, patience)
	defer cancel()
	if err := r.client.Get(ctx, path, v); err != nil {
		r.Fatalf("GET %s: %v", path, err)
	}
}

func (r *rig) post(path string, body, v any) {
	r.Helper()
	ctx, cancel := context.WithTimeout(background, patience)
	defer cancel()
	if err := r.client.Post(ctx, path, body, v); err != nil {
		r.Fatalf("POST %s: %v", path, err)
	}
}

// status is what a path answers with; 0: it did not.
func (r *rig) status(method, path string) (int, string) {
	r.Helper()
	ctx, cancel := context.WithTimeout(background, patience)
	defer cancel()
	var err error
	if method == http.MethodPost {
		err = r.client.Post(ctx, path, nil, nil)
	} else {
		err = r.client.Get(ctx, path, nil)
	}
	var no *admin.StatusError
	switch {
	case err == nil:
		return http.StatusOK, ""
	case errors.As(err, &no):
		return no.Status, no.Text
	}
	r.Fatal(err)
	return 0, ""
}

// raw sends a request as it is written and returns the answer.
func (r *rig) raw(text string) *http.Response {
	r.Helper()
	network, addr := "tcp", r.door.Addr()
	if path, ok := strings.CutPrefix(addr, "unix://"); ok {
		network, addr = "unix", path
	}
	c, err := net.DialTimeout(network, addr, patience)
	if err != nil {
		r.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, text); err != nil {
		r.Fatal(err)
	}
	method, _, _ := strings.Cut(text, " ")
	res, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		r.Fatalf("%q: %v", text, err)
	}
	b, err := io.ReadAll(res.Body)
	if err != nil {
		r.Fatalf("%q: %v", text, err)
	}
	res.Body = io.NopCloser(bytes.NewReader(b))
	return res
}

// port is the door's.
func (r *rig) port() string { _, port, _ := net.SplitHostPort(r.door.Addr()); return port }

// peer is a client of the server.
type peer struct {
	net.Conn
	t testing.TB
	r *codec.Reader
}

func (r *rig) dial() *peer {
	r.Helper()
	c, err := net.DialTimeout("tcp", r.srv.Addrs()[0].String(), patience)
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(2 * patience))
	return &peer{c, r, codec.NewReader(c, nil)}
}

func (p *peer) send(main, sub uint16, body string) {
	p.t.Helper()
	if _, err := p.Write(codec.Packet{Main: main, Sub: sub, Body: []byte(body)}.Append(nil)); err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) next() codec.Packet {
	p.t.Helper()
	x, err := p.r.Next()
	if err != nil {
		p.t.Fatal(err)
	}
	return x
}

// echo asks and is answered.
func (p *peer) echo(text string) {
	p.t.Helper()
	p.send(1, 1, text)
	if x := p.next(); x.Main != 1 || x.Sub != 1 || string(x.Body) != text {
		p.t.Fatalf("got %d/%d %q, want 1/1 %q", x.Main, x.Sub, x.Body, text)
	}
}

// wantError wants an ERROR with this code and text, about handle.
func (p *peer) wantError(code engine.ErrorCode, handle uint32, text string) {
	p.t.Helper()
	x := p.next()
	if x.Main != 0 || x.Sub != engine.SubError || len(x.Body) < 6 || engine.ErrorCode(binary.BigEndian.Uint16(x.Body)) != code ||
		binary.BigEndian.Uint32(x.Body[2:]) != handle || string(x.Body[6:]) != text {
		p.t.Fatalf("got %d/%d %q, want ERROR %v about %#x: %q", x.Main, x.Sub, x.Body, code, handle, text)
	}
}

func (p *peer) wantEnd() {
	p.t.Helper()
	if x, err := p.r.Next(); err != io.EOF {
		p.t.Fatalf("got %v %v, want the end", x, err)
	}
}

// eventually polls until is holds.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %v for %s", patience, what)
		}
	}
}

// pretty is v for a failing test's text.
func pretty(v any) string { b, err := json.Marshal(v); return fmt.Sprint(string(b), err) }

func testContext() (context.Context, context.CancelFunc) {
	return context.WithTimeout(background, patience)
}
