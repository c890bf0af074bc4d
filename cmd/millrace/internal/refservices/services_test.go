package refservices

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alexedwards/argon2id"
	"go.uber.org/goleak"

	"millrace/codec"
	"millrace/dbasync"
	"millrace/dbasync/migrate"
	"millrace/dbasync/pgembed"
	"millrace/engine"
	"millrace/services"
	"millrace/services/cluster"
	"millrace/timerwheel"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// gnet keeps one ants pool for the life of the process
		goleak.IgnoreAnyFunction("github.com/panjf2000/ants/v2.(*poolCommon).purgeStaleWorkers"),
		goleak.IgnoreAnyFunction("github.com/panjf2000/ants/v2.(*poolCommon).ticktock"),
		goleak.IgnoreAnyFunction("github.com/panjf2000/ants/v2.(*goWorker).run.func1"))
}

var (
	background = context.Background()
	quiet      = slog.New(slog.NewTextHandler(io.Discard, nil))
)

type starter interface {
	Start(context.Context) error
	Stop(context.Context) error
}

func start(t testing.TB, s starter, err error) {
	t.Helper()
	if err == nil {
		err = s.Start(background)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(background, 30*time.Second)
		defer cancel()
		if err := s.Stop(ctx); err != nil {
			t.Errorf("stop %T: %v", s, err)
		}
	})
}

// serve starts the services on a socket and returns its address.
func serve(t testing.TB, change func(*Config)) (addr string, x *Services) {
	t.Helper()
	pool, err := engine.NewPool(engine.PoolConfig{Logger: quiet})
	start(t, pool, err)
	timers, err := timerwheel.New(timerwheel.Config{}, pool)
	start(t, timers, err)
	cfg := Config{Timers: timers, Pool: pool, Logger: quiet}
	if change != nil {
		change(&cfg)
	}
	if x, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	srv, err := engine.New(engine.Config{Addrs: []string{"tcp://127.0.0.1:0"}, Pool: pool, Handles: x.Dispatch(), Logger: quiet}, x.Controller)
	start(t, srv, err)
	return srv.Addrs()[0].String(), x
}

// wire is a client that sends and reads single frames.
type wire struct {
	testing.TB
	*net.TCPConn
	r *codec.Reader
}

func dial(t testing.TB, addr string) *wire {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return &wire{t, c.(*net.TCPConn), codec.NewReader(c, nil)}
}

func (w *wire) send(sub uint32, body string) {
	w.Helper()
	h := services.Handle(uint16(sub/10), uint16(sub%10))
	main, s := codec.Split(h)
	if _, err := w.Write(codec.Packet{Main: main, Sub: s, Body: []byte(body)}.Append(nil)); err != nil {
		w.Fatal(err)
	}
}

// next reads a frame as "main/sub body", an ERROR as "error code main/sub".
func (w *wire) next() string {
	w.Helper()
	_ = w.SetReadDeadline(time.Now().Add(time.Minute))
	p, err := w.r.Next()
	if err != nil {
		return err.Error()
	}
	if p.Main == 0 && p.Sub == 3 {
		h := binary.BigEndian.Uint32(p.Body[2:])
		return fmt.Sprintf("error %d %d/%d", binary.BigEndian.Uint16(p.Body), h>>16, h&0xffff)
	}
	return fmt.Sprintf("%d/%d %s", p.Main, p.Sub, p.Body)
}

func (w *wire) want(frames ...string) {
	w.Helper()
	for _, want := range frames {
		if got := w.next(); got != want {
			w.Fatalf("got %q, want %q", got, want)
		}
	}
}

// ask sends and wants that answer; 43 is 4/3.
func (w *wire) ask(sub uint32, body, want string) {
	w.Helper()
	w.send(sub, body)
	if !strings.HasPrefix(want, "error") {
		want = fmt.Sprintf("%d/%d %s", sub/10, sub%10, want)
	} else {
		want = fmt.Sprintf("%s %d/%d", want, sub/10, sub%10)
	}
	if got := w.next(); got != want {
		w.Errorf("%s: got %q, want %q", body, got, want)
	}
}

func TestSums(t *testing.T) {
	addr, _ := serve(t, nil)
	w := dial(t, addr)
	for _, sub := range []uint32{43, 44} {
		w.ask(sub, `{"a":2,"b":3}`, `{"sum":5}`)
		w.ask(sub, `{"a":-9223372036854775808,"b":0}`, `{"sum":-9223372036854775808}`)
		w.ask(sub, `{"b":1,"A":5,"a":"x","a":4}`, `{"sum":5}`)
		for _, bad := range []string{
			``, `{}`, `{"a":1}`, `{"a":1,"b":null}`, `{"a":1,"b":true}`, `{"a":1,"b":1.5}`, `{"a":1,"b":"1"}`, `[1,2]`,
			`{"a":1,"b":9223372036854775808}`, `{"a":9223372036854775807,"b":1}`, `{"a":-9223372036854775808,"b":-1}`,
			`{"a":1,"b":2}x`, "{\"a\":1,\"b\":2,\"c\":\"\xff\"}", `{"a":1,"B":2}`,
			`{"a":1,"b":2,"c":` + strings.Repeat("[", 32) + strings.Repeat("]", 32) + `}`,
		} {
			w.ask(sub, bad, "error 3")
		}
	}
	w.ask(46, `{}`, "error 2") // only the server sends it
}

func TestLater(t *testing.T) {
	addr, _ := serve(t, func(c *Config) { c.MaxDelayed = 3 })
	w := dial(t, addr)
	start := time.Now()
	w.ask(45, `{"seconds":0.05,"data":{"x":[1.50,null]}}`, `{"accepted":true}`)
	got := w.next()
	if d := time.Since(start); d < 50*time.Millisecond || !strings.HasPrefix(got, `4/6 {"data":{"x":[1.50,null]},"late_ms":`) {
		t.Errorf("after %v got %s", d, got)
	}
	w.ask(45, `{"seconds":0,"data":null}`, `{"accepted":true}`)
	if got := w.next(); !strings.HasPrefix(got, `4/6 {"data":null,"late_ms":`) {
		t.Errorf("got %s", got)
	}
	for _, bad := range []string{`{"seconds":-1,"data":1}`, `{"seconds":1}`, `{"seconds":null,"data":1}`, `{"seconds":"1","data":1}`, `{"seconds":1e400,"data":1}`, `{"seconds":1e300,"data":1}`} {
		w.ask(45, bad, "error 3")
	}
	w.ask(45, `{"seconds":1,"data":"`+strings.Repeat("x", 65480)+`"}`, "error 12") // 4/6 would not fit
	for range 3 {
		w.ask(45, `{"seconds":60,"data":1}`, `{"accepted":true}`)
	}
	w.ask(45, `{"seconds":60,"data":1}`, "error 12")
}

// caches runs a test over both caches.
func caches(t *testing.T, test func(t *testing.T, addr string)) {
	t.Run("in process", func(t *testing.T) {
		addr, _ := serve(t, func(c *Config) { c.MaxKeys = 5 })
		test(t, addr)
	})
	t.Run("shared", func(t *testing.T) {
		srv, err := cluster.StartEmbedded(cluster.EmbeddedConfig{Dir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(srv.Stop)
		c, err := cluster.New(cluster.Config{URL: srv.URL()})
		start(t, c, err)
		addr, _ := serve(t, func(cfg *Config) { cfg.Cache, cfg.Shared, cfg.MaxKeys = c, true, 5 })
		test(t, addr)
	})
}

func TestCache(t *testing.T) {
	caches(t, func(t *testing.T, addr string) {
		w := dial(t, addr)
		w.ask(52, `{"key":"a"}`, `{"found":false,"val":null}`)
		w.ask(51, `{"key":"a","val":{"n":1.0,"s":"é"}}`, `{"ok":true}`)
		dial(t, addr).ask(52, `{"key":"a"}`, `{"found":true,"val":{"n":1.0,"s":"é"}}`)
		w.ask(53, `{"key":"a","expect":null,"val":2}`, `{"swapped":false,"val":{"n":1.0,"s":"é"}}`)
		w.ask(53, `{"key":"a","expect":{"n":2},"val":2}`, `{"swapped":false,"val":{"n":1.0,"s":"é"}}`)
		w.ask(53, `{"key":"a","expect":{"s":"\u00e9" , "n":10e-1},"val":2}`, `{"swapped":true,"val":2}`)
		w.ask(53, `{"key":"b","expect":1,"val":2}`, `{"swapped":false,"val":null}`)
		w.ask(53, `{"key":"b","expect":null,"val":null}`, `{"swapped":true,"val":null}`)
		w.ask(52, `{"key":"b"}`, `{"found":true,"val":null}`) // null is a value
		w.ask(53, `{"key":"b","expect":null,"val":1}`, `{"swapped":false,"val":null}`)
		w.ask(51, `{"key":"big","val":123456789012345678901234567890}`, `{"ok":true}`)
		w.ask(52, `{"key":"big"}`, `{"found":true,"val":123456789012345678901234567890}`)
		w.ask(51, `{"key":"","val":"<&>"}`, `{"ok":true}`)
		w.ask(52, `{"key":""}`, `{"found":true,"val":"<&>"}`)
		for _, bad := range []string{`{"key":"a"}`, `{"key":1,"val":1}`, `{"val":1}`, `{"key":null,"val":1}`} {
			w.ask(51, bad, "error 3")
		}
		w.ask(53, `{"key":"a","val":1}`, "error 3")
		w.ask(51, `{"key":"e","val":1}`, `{"ok":true}`)
		w.ask(51, `{"key":"f","val":1}`, "error 12") // the session's sixth key
		w.ask(51, `{"key":"a","val":1}`, `{"ok":true}`)
		w.ask(51, `{"key":"`+strings.Repeat("k", 600)+`","val":1}`, "error 12")
		dial(t, addr).ask(51, `{"key":"`+strings.Repeat("k", 600)+`","val":1}`, "error 12")
	})
}

func (w *wire) lock(body string) uint64 {
	w.Helper()
	w.send(54, body)
	return w.locked()
}

func (w *wire) locked() (token uint64) {
	w.Helper()
	got := w.next()
	if n, _ := fmt.Sscanf(got, `5/4 {"locked":true,"token":%d}`, &token); n != 1 {
		w.Fatalf("got %s, want a lock", got)
	}
	return token
}

const noLock = `5/4 {"locked":false,"token":0}`

func TestLocks(t *testing.T) {
	caches(t, func(t *testing.T, addr string) {
		a, b := dial(t, addr), dial(t, addr)
		t1 := a.lock(`{"key":"l","ttl_ms":60000,"wait_ms":0}`)
		if t1 == 0 || t1 >= 1<<53 {
			t.Errorf("token %d", t1)
		}
		a.ask(54, `{"key":"l","ttl_ms":1,"wait_ms":0}`, noLock[4:]) // not re-entrant
		b.ask(54, `{"key":"l","ttl_ms":1,"wait_ms":30}`, noLock[4:])
		b.ask(55, fmt.Sprintf(`{"key":"l","token":%d}`, t1+1), `{"unlocked":false}`)

		// A wait lets later requests pass, but those of its handle.
		b.send(54, `{"key":"l","ttl_ms":60000,"wait_ms":60000}`)
		b.send(54, `{"key":"other","ttl_ms":60000,"wait_ms":0}`)
		b.send(54, `{"key":"l"}`)
		b.send(43, `{"a":1,"b":1}`)
		b.want(`4/3 {"sum":2}`)
		b.ask(55, fmt.Sprintf(`{"key":"l","token":%d}`, t1), `{"unlocked":true}`) // whoever has the token
		t2 := b.locked()
		if t2 <= t1 {
			t.Errorf("token %d after %d", t2, t1)
		}
		b.locked()
		b.want("error 3 5/4")

		// A session that closes frees its locks, and its waits.
		a.send(54, `{"key":"l","ttl_ms":60000,"wait_ms":60000}`)
		c := dial(t, addr)
		c.send(54, `{"key":"l","ttl_ms":60000,"wait_ms":60000}`)
		c.send(54, `{"key":"l","ttl_ms":60000,"wait_ms":60000}`)
		c.ask(43, `{"a":1,"b":1}`, `{"sum":2}`)
		for _, w := range []*wire{c, b} { // resets: no FIN comes
			if err := w.SetLinger(0); err != nil {
				t.Fatal(err)
			}
			_ = w.Close()
		}
		t3 := a.locked()
		if t3 <= t2 {
			t.Errorf("token %d after %d", t3, t2)
		}

		// A FIN too, and what waits is answered.
		d := dial(t, addr)
		d.lock(`{"key":"d","ttl_ms":60000,"wait_ms":0}`)
		d.send(54, `{"key":"l","ttl_ms":60000,"wait_ms":60000}`)
		d.send(43, `{"a":1,"b":1}`)
		d.want(`4/3 {"sum":2}`)
		if err := d.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		d.want(noLock, "EOF")
		a.lock(`{"key":"d","ttl_ms":60000,"wait_ms":60000}`)
		a.ask(55, fmt.Sprintf(`{"key":"l","token":%d}`, t3), `{"unlocked":true}`)

		// A ttl.
		start := time.Now()
		a.lock(`{"key":"t","ttl_ms":300,"wait_ms":0}`)
		e := dial(t, addr)
		e.lock(`{"key":"t","ttl_ms":300,"wait_ms":60000}`)
		if d := time.Since(start); d < 300*time.Millisecond {
			t.Errorf("free after %v, want 300 ms", d)
		}
		for _, bad := range []string{`{"key":"a","ttl_ms":0,"wait_ms":0}`, `{"key":"a","ttl_ms":1,"wait_ms":-1}`, `{"key":"a","ttl_ms":1}`, `{"key":"a","ttl_ms":1.5,"wait_ms":0}`} {
			a.ask(54, bad, "error 3")
		}
		a.ask(55, `{"key":"a","token":-1}`, "error 3")
		a.ask(55, `{"key":"a","token":18446744073709551615}`, `{"unlocked":false}`)
		a.lock(`{"key":"long","ttl_ms":9223372036854775807,"wait_ms":9223372036854775807}`)
	})
}

func TestLocksOfASessionHaveALimit(t *testing.T) {
	addr, _ := serve(t, func(c *Config) { c.Memory.MaxPerOwner = 2 })
	w := dial(t, addr)
	w.lock(`{"key":"a","ttl_ms":60000,"wait_ms":0}`)
	w.send(54, `{"key":"a","ttl_ms":60000,"wait_ms":60000}`)
	w.send(54, `{"key":"b","ttl_ms":60000,"wait_ms":0}`)
	w.ask(43, `{"a":1,"b":1}`, `{"sum":2}`)
	if err := w.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	w.want(noLock, "error 12 5/4", "EOF")
}

func TestUsersNeedADatabase(t *testing.T) {
	addr, _ := serve(t, nil)
	w := dial(t, addr)
	for _, sub := range []uint32{41, 42} {
		w.ask(sub, `{"username":"a","password":"b"}`, "error 11")
		w.ask(sub, `bad`, "error 11")
	}
	w.ask(43, `{"a":1,"b":1}`, `{"sum":2}`)
}

func TestUsers(t *testing.T) {
	pg := pgembed.ForTest(t, pgembed.Config{})
	if _, err := migrate.Run(background, pg.URL(), "services", Schema); err != nil {
		t.Fatal(err)
	}
	var ready atomic.Bool
	ready.Store(true)
	addr, x := serve(t, func(c *Config) {
		db, err := dbasync.New(dbasync.Config{URL: pg.URL(), Lanes: 1, Pool: c.Pool})
		start(t, db, err)
		c.DB = db
		c.Ready = ready.Load
	})
	w := dial(t, addr)
	w.ask(41, `{"username":"cwl","password":"123456"}`, `{"user_id":1}`)
	w.ask(41, `{"username":"cwl","password":"other"}`, "error 9")
	w.ask(42, `{"username":"cwl","password":"wrong"}`, "error 8")
	w.ask(42, `{"username":"nobody","password":"123456"}`, "error 8")
	w.ask(42, `{"username":"CWL","password":"123456"}`, "error 8")
	w.send(42, `{"username":"cwl","password":"123456"}`)
	var token string
	if got := w.next(); !strings.HasPrefix(got, `4/2 {"user_id":1,"token":"`) {
		t.Fatalf("got %s", got)
	} else {
		_, _ = fmt.Sscanf(got, `4/2 {"user_id":1,"token":%q`, &token)
	}
	w.send(42, `{"username":"cwl","password":"123456"}`)
	var second string
	if n, _ := fmt.Sscanf(w.next(), `4/2 {"user_id":1,"token":%q`, &second); n != 1 || second == token {
		t.Fatalf("two logins, tokens %q and %q", token, second)
	}
	ask := func(token string) string { return fmt.Sprintf(`{"token":%q}`, token) }
	for _, bad := range []string{"", token[1:], token + "A", strings.ToLower(token)} {
		w.ask(47, ask(bad), "error 8")
		w.ask(48, ask(bad), `{"revoked":false}`)
	}
	other := dial(t, addr) // a token is no session's
	other.ask(47, ask(token), `{"user_id":1,"username":"cwl"}`)
	other.ask(48, ask(token), `{"revoked":true}`)
	w.ask(48, ask(token), `{"revoked":false}`)
	w.ask(47, ask(token), "error 8")
	w.ask(47, ask(second), `{"user_id":1,"username":"cwl"}`)
	if dump := query(t, x.cfg.DB, `select string_agg(t::text, ' ') from tokens t`); strings.Contains(dump, second) || !strings.Contains(dump, fmt.Sprintf("%x", hashToken(second))) {
		t.Errorf("stored: %s", dump)
	}
	query(t, x.cfg.DB, `update tokens set expires = now() returning 'x'`)
	w.ask(47, ask(second), "error 8")
	w.ask(47, `{"token":1}`, "error 3")
	long := strings.Repeat("n", 64)
	w.ask(41, fmt.Sprintf(`{"username":%q,"password":%q}`, long, strings.Repeat("p", 1024)), `{"user_id":3}`)
	for _, bad := range []string{
		`{"username":"","password":"x"}`, `{"username":"x","password":""}`, `{"username":"x"}`, `{"username":"x","password":1}`,
		`{"username":"` + long + `n","password":"x"}`, `{"username":"x","password":"` + strings.Repeat("p", 1025) + `"}`,
		`{"username":"a\u0000b","password":"x"}`, ``, `[]`,
	} {
		w.ask(41, bad, "error 3")
		w.ask(42, bad, "error 3")
	}
	// Later requests don't wait for a hash, and answers keep their handle's order.
	for i := range 5 {
		w.send(42, fmt.Sprintf(`{"username":"nobody%d","password":"x"}`, i))
		w.send(41, fmt.Sprintf(`{"username":"new%d","password":"x"}`, i))
	}
	w.send(42, `{"username":"","password":"x"}`)
	w.send(43, `{"a":1,"b":1}`)
	w.want(`4/3 {"sum":2}`)
	logins, last := 0, ""
	for range 11 {
		if last = w.next(); strings.HasPrefix(last, "error") {
			if logins++; logins <= 5 && last != "error 8 4/2" || logins == 6 && last != "error 3 4/2" {
				t.Errorf("answer %d of 4/2: %s", logins, last)
			}
		}
	}
	if logins != 6 {
		t.Errorf("%d errors", logins)
	}
	fairLogins(t, addr)
	if err := pg.Halt(background, pgembed.Immediate); err != nil {
		t.Fatal(err)
	}
	ready.Store(false)
	dial(t, addr).ask(42, `{"username":"cwl","password":"123456"}`, "error 11")
}

// The work for a user that is not there is that for one who is.
func TestNobodysHashCostsTheSame(t *testing.T) {
	params, _, _, err := argon2id.DecodeHash(nobody())
	if err != nil || *params != *cost {
		t.Errorf("got %+v, %v, want %+v", params, err, cost)
	}
}

// query runs one that gives a text.
func query(t *testing.T, db *dbasync.DB, sql string) (text string) {
	t.Helper()
	done := make(chan error, 1)
	err := db.Query(background, nil, func(r dbasync.QueryResult) { done <- r.Scan(&text) }, dbasync.Stmt{SQL: sql})
	if err == nil {
		err = <-done
	}
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// A session with many logins under way delays another's by a few at most, and when it has
// gone nothing of it is worked at any more.
func fairLogins(t *testing.T, addr string) {
	greedy := dial(t, addr)
	var done atomic.Int64
	go func() {
		for _, err := greedy.r.Next(); err == nil; _, err = greedy.r.Next() {
			done.Add(1)
		}
	}()
	for range 3000 {
		greedy.send(42, `{"username":"cwl","password":"wrong"}`)
	}
	for end := time.Now().Add(time.Minute); done.Load() < 5; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no login is answered")
		}
	}
	other := dial(t, addr)
	before := done.Load()
	other.ask(42, `{"username":"cwl","password":"wrong"}`, "error 8")
	if n := done.Load() - before; n > 40 {
		t.Errorf("%d of another session's logins came first", n)
	}
	_ = greedy.SetLinger(0)
	_ = greedy.Close()
	other.ask(42, `{"username":"cwl","password":"123456x"}`, "error 8")
}
