package capture

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"millrace/codec"
	"millrace/engine"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// handler answers as read says.
type handler struct {
	read func(s *engine.Session, p codec.Packet)
}

func (h *handler) OnSocketAccept(*engine.Session)               {}
func (h *handler) OnSocketClose(*engine.Session, engine.Reason) {}
func (h *handler) OnSocketRead(s *engine.Session, p codec.Packet) {
	if h.read != nil {
		h.read(s, p)
		return
	}
	_ = s.Reply(p, p.Body)
}

// serve starts a server that is stopped at the test's end.
func serve(t testing.TB, cfg engine.Config, h *handler) *engine.Server {
	t.Helper()
	if len(cfg.Addrs) == 0 {
		cfg.Addrs = []string{"tcp://127.0.0.1:0"}
	}
	cfg.Logger = quiet
	srv, err := engine.New(cfg, h)
	if err != nil {
		t.Fatal(err)
	}
	if err := srv.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(srv) })
	return srv
}

func stop(srv *engine.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	srv.Stop(ctx)
}

func waitFor(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited a minute for %s", what)
		}
	}
}

// peer is a client.
type peer struct {
	net.Conn
	t testing.TB
	r *codec.Reader
}

func dial(t testing.TB, srv *engine.Server, i int) *peer {
	t.Helper()
	a := srv.Addrs()[i]
	c, err := net.Dial(a.Network(), a.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &peer{c, t, codec.NewReader(c, nil)}
}

func (p *peer) ask(main, sub uint16, body string) codec.Packet {
	p.t.Helper()
	if _, err := p.Write(codec.Packet{Main: main, Sub: sub, Body: []byte(body)}.Append(nil)); err != nil {
		p.t.Fatal(err)
	}
	p.SetReadDeadline(time.Now().Add(time.Minute))
	q, err := p.r.Next()
	if err != nil {
		p.t.Fatal(err)
	}
	return q
}

func (p *peer) hangUp() {
	p.Conn.(interface{ CloseWrite() error }).CloseWrite()
	p.SetReadDeadline(time.Now().Add(time.Minute))
	io.Copy(io.Discard, p)
	p.Close()
}

// record runs a server that records while use talks to it, and returns the file.
func record(t testing.TB, cfg Config, ecfg engine.Config, h *handler, use func(srv *engine.Server)) string {
	t.Helper()
	if cfg.Path == "" {
		cfg.Path = filepath.Join(t.TempDir(), "traffic.pcapng")
	}
	cfg.Logger = quiet
	w, err := Create(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ecfg.Tap = w
	srv := serve(t, ecfg, h)
	use(srv)
	stop(srv)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if st := w.Stats(); st.Err != nil && !errors.Is(st.Err, errClosed) {
		t.Error(st.Err)
	}
	return cfg.Path
}

func index(t testing.TB, path string) (*Recording, *os.File) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	rec, err := Index(f)
	if err != nil {
		t.Fatal(err)
	}
	return rec, f
}

// dialer connects to a server.
func dialer(srv *engine.Server) func(context.Context) (net.Conn, error) {
	a := srv.Addrs()[0]
	return func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, a.Network(), a.String())
	}
}

// play plays a recording against a server.
func play(t testing.TB, path string, srv *engine.Server, cfg PlayConfig) *Report {
	t.Helper()
	rec, f := index(t, path)
	cfg.Dial = dialer(srv)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := Play(ctx, f, rec, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// talk is some traffic over every address of the server.
func talk(t testing.TB, srv *engine.Server) (sessions, requests int) {
	for i := range srv.Addrs() {
		for n := range 5 {
			p := dial(t, srv, i)
			for k := range 10 {
				body := strings.Repeat("x", n*1000+k)
				if q := p.ask(1, uint16(n+1), body); q.Main != 0 && string(q.Body) != body {
					t.Fatalf("got %v", q)
				}
				requests++
			}
			if n == 3 { // larger than a packet, in pieces
				big := codec.Packet{Main: 1, Sub: 7, Body: make([]byte, 65_530)}.Append(nil)
				p.Write(big[:9])
				p.Write(big[9:40_000])
				p.Write(big[40_000:])
				if q, err := p.r.Next(); err != nil || len(q.Body) != 65_530 {
					t.Fatal(q, err)
				}
				requests++
			}
			p.hangUp()
			sessions++
		}
	}
	return sessions, requests
}

// both are a TCP address of each family and a unix socket.
func both(t testing.TB) engine.Config {
	return engine.Config{Addrs: []string{"tcp://127.0.0.1:0", "tcp://[::1]:0", "unix://" + filepath.Join(t.TempDir(), "s")}}
}

// What is recorded of sessions over IPv4, IPv6 and a unix socket reads back, is played with
// the same answers, in every speed, and again as requests to be asked; other tools read it.
func TestRecordingsPlayTheSame(t *testing.T) {
	refuse := &handler{read: func(s *engine.Session, p codec.Packet) {
		if p.Sub == 5 {
			_ = s.ReplyError(p, engine.CodeNotFound, "no such thing")
			return
		}
		_ = s.Reply(p, p.Body)
	}}
	sessions, requests := 0, 0
	path := record(t, Config{}, both(t), refuse, func(srv *engine.Server) { sessions, requests = talk(t, srv) })
	rec, f := index(t, path)
	if len(rec.Sessions) != sessions || rec.Requests != requests || rec.Answers != requests || rec.Dropped != 0 || rec.Cut || !rec.Plain {
		t.Fatalf("%d sessions, %d requests, %d answers, dropped %d, cut %v; want %d and %d", len(rec.Sessions), rec.Requests, rec.Answers, rec.Dropped, rec.Cut, sessions, requests)
	}
	for _, s := range rec.Sessions {
		if s.incomplete || s.end != endPeer || !strings.HasPrefix(s.Name, "session ") {
			t.Errorf("%q: incomplete %v, end %d", s.Name, s.incomplete, s.end)
		}
	}
	lists, err := rec.Scripts(f)
	n := 0
	for _, l := range lists {
		n += len(l)
		for _, r := range l {
			if p, size, _, err := rec.Codec.Decode(r.Frame); err != nil || size != len(r.Frame) || p.Handle() != r.Handle {
				t.Fatalf("a request that is no frame: %x", r.Frame[:8])
			}
		}
	}
	if err != nil || n != requests || !rec.Refused()[1<<16|5] || rec.Refused()[1<<16|1] {
		t.Errorf("%d requests to ask, want %d, %v; refused %v", n, requests, err, rec.Refused())
	}
	for _, speed := range []float64{1, 20, 0} {
		r := play(t, path, serve(t, engine.Config{}, refuse), PlayConfig{Speed: speed, Sessions: 4})
		if !r.Same() || r.Sessions != sessions || r.Requests != requests || r.Want != requests || r.Got != requests || r.Incomplete != 0 {
			t.Errorf("speed %v: %+v", speed, r)
		}
	}
	for _, tool := range [][]string{{"tcpdump", "-nn", "-r", path, "tcp"}, {"capinfos", "-c", path}} {
		if _, err := exec.LookPath(tool[0]); err != nil {
			t.Logf("no %s here", tool[0])
			continue
		}
		out, err := exec.Command(tool[0], tool[1:]...).Output()
		if err != nil {
			t.Errorf("%v: %v", tool, err)
		}
		if n := strings.Count(string(out), "Flags [S]"); tool[0] == "tcpdump" && n != sessions {
			t.Errorf("tcpdump finds %d connections, want %d", n, sessions)
		}
	}
}

// A server that answers differently is detected: fewer answers, more answers, an ERROR instead of an
// answer, a connection that it closes.
func TestPlayNamesWhatDiffers(t *testing.T) {
	path := record(t, Config{}, engine.Config{}, &handler{}, func(srv *engine.Server) {
		for range 3 {
			p := dial(t, srv, 0)
			p.ask(1, 1, "a")
			p.ask(1, 2, "b")
			p.ask(1, 1, "c")
			p.hangUp()
		}
	})
	for name, c := range map[string]struct {
		read func(s *engine.Session, p codec.Packet)
		want []Difference // of each session
	}{
		"fewer": {func(s *engine.Session, p codec.Packet) {
			if p.Sub != 2 {
				s.Reply(p, nil)
			}
		}, []Difference{{"", "1/2", 1, 0}}},
		"more": {func(s *engine.Session, p codec.Packet) { s.Reply(p, nil); s.Push(2, 4, nil) }, []Difference{{"", "2/4", 0, 3}}},
		"error": {func(s *engine.Session, p codec.Packet) {
			if p.Sub == 2 {
				s.ReplyError(p, engine.CodeConflict, "")
				return
			}
			s.Reply(p, nil)
		}, []Difference{{"", "1/2", 1, 0}, {"", "ERROR 9 about 1/2", 0, 1}}},
		"close": {func(s *engine.Session, p codec.Packet) {
			s.Reply(p, nil)
			if p.Sub == 2 {
				s.Close()
			}
		}, []Difference{{"", "1/1", 2, 1}}},
	} {
		r := play(t, path, serve(t, engine.Config{}, &handler{read: c.read}), PlayConfig{Wait: 300 * time.Millisecond})
		if r.Same() || r.Differ+r.Failed < 3 {
			t.Errorf("%s: %+v", name, r)
		}
		for _, d := range c.want {
			n := 0
			for _, got := range r.Differences {
				if got.Answer == d.Answer && got.Want == d.Want && got.Got == d.Got && strings.HasPrefix(got.Session, "session ") {
					n++
				}
			}
			if n != 3 {
				t.Errorf("%s: %d sessions differ by %+v, want 3, in %+v", name, n, d, r.Differences)
			}
		}
	}
	closed := serve(t, engine.Config{}, &handler{})
	stop(closed)
	if r := play(t, path, closed, PlayConfig{}); r.Same() || r.Failed != 3 || len(r.Errors) == 0 {
		t.Errorf("nobody there: %+v", r)
	}
}

// Replay keeps the recorded times, divided by the speed.
func TestPlayKeepsTimes(t *testing.T) {
	const gap = 200 * time.Millisecond
	path := record(t, Config{}, engine.Config{}, &handler{}, func(srv *engine.Server) {
		p := dial(t, srv, 0)
		p.ask(1, 1, "a")
		<-time.After(gap) // the time that is recorded
		p.ask(1, 1, "b")
		p.hangUp()
	})
	for _, speed := range []float64{1, 4} {
		var first, second atomic.Int64
		began := time.Now()
		srv := serve(t, engine.Config{}, &handler{read: func(s *engine.Session, p codec.Packet) {
			if string(p.Body) == "a" {
				first.Store(int64(time.Since(began)))
			} else {
				second.Store(int64(time.Since(began)))
			}
			s.Reply(p, p.Body)
		}})
		r := play(t, path, srv, PlayConfig{Speed: speed})
		// The first may have been late itself; the report says how much.
		if d, least := time.Duration(second.Load()-first.Load()), time.Duration(float64(gap)/speed)-r.Late-5*time.Millisecond; d < least || !r.Same() {
			t.Errorf("speed %v: %v between the two, want at least %v; %+v", speed, d, least, r)
		}
	}
}
