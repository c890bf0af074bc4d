package nodes_test

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"millrace/codec"
	"millrace/engine"
	"millrace/internal/proctest"
	"millrace/services/cluster"
	"millrace/services/nodes"
)

var long = flag.Bool("long", false, "run the long form of the soaks")

var (
	background = context.Background()
	quiet      = slog.New(slog.NewTextHandler(io.Discard, nil))
)

// patience is how long the tests wait for what should come soon.
const patience = time.Minute

func TestMain(m *testing.M) {
	if proctest.Play() {
		return
	}
	goleak.VerifyTestMain(m,
		// gnet keeps one ants pool for the life of the process
		goleak.IgnoreAnyFunction("github.com/panjf2000/ants/v2.(*poolCommon).purgeStaleWorkers"),
		goleak.IgnoreAnyFunction("github.com/panjf2000/ants/v2.(*poolCommon).ticktock"),
		goleak.IgnoreAnyFunction("github.com/panjf2000/ants/v2.(*goWorker).run.func1"))
}

// servers starts a NATS server.
func servers(t testing.TB) string {
	t.Helper()
	e, err := cluster.StartEmbedded(cluster.EmbeddedConfig{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Stop)
	return e.URL()
}

// member is a node with all that stands around it, as a process has it.
type member struct {
	*nodes.Node
	t     testing.TB
	cache *cluster.Cache
	pool  *engine.Pool
	srv   *engine.Server
	gaps  chan nodes.Gap
	once  sync.Once
	url   string // of the servers
}

type settings struct {
	lease   time.Duration
	timeout time.Duration // of the cache and the bus
	nodes.Config
	before   func(*nodes.Node) // Start
	maxFrame int
}

// start starts a node.
func start(t testing.TB, url, name string, change ...func(*settings)) *member {
	t.Helper()
	m, err := tryStart(t, url, name, change...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func tryStart(t testing.TB, url, name string, change ...func(*settings)) (*member, error) {
	t.Helper()
	m := &member{t: t, url: url, gaps: make(chan nodes.Gap, 64)}
	s := settings{lease: time.Minute}
	s.Config = nodes.Config{Name: name, Logger: quiet, OnGap: func(g nodes.Gap) {
		select {
		case m.gaps <- g:
		default:
		}
	}}
	for _, fn := range change {
		fn(&s)
	}
	fatal := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	var err error
	m.pool, err = engine.NewPool(engine.PoolConfig{Workers: 4, Logger: quiet})
	fatal(err)
	fatal(m.pool.Start(background))
	if url != "" {
		m.cache, err = cluster.New(cluster.Config{URL: url, Lease: s.lease, Timeout: s.timeout, Logger: quiet})
		fatal(err)
		fatal(m.cache.Start(background))
		s.Cache = m.cache
	}
	m.Node, err = nodes.New(s.Config)
	fatal(err)
	m.srv, err = engine.New(engine.Config{Addrs: []string{"tcp://127.0.0.1:0"}, Loops: 1, Pool: m.pool, MaxFrame: s.maxFrame, Logger: quiet,
		Timeouts: engine.Timeouts{FirstFrameTimeout: engine.Off}}, &echoes{})
	fatal(err)
	m.Attach(m.srv, m.pool)
	if s.before != nil {
		s.before(m.Node)
	}
	t.Cleanup(m.stop)
	if err := m.Node.Start(background); err != nil {
		return m, err
	}
	fatal(m.srv.Start(background))
	return m, nil
}

// stop ends everything in its order.
func (m *member) stop() {
	m.once.Do(func() {
		ctx, cancel := context.WithTimeout(background, 10*time.Second)
		defer cancel()
		_ = m.srv.Stop(ctx) // what tests leave open is a loss
		_ = m.Node.Stop(ctx)
		if m.cache != nil {
			_ = m.cache.Stop(ctx)
		}
		_ = m.pool.Stop(ctx)
	})
}

// echoes answers each frame with itself: a barrier for clients, as whatever was sent to the
// session before comes in front of it.
type echoes struct{}

func (*echoes) OnSocketAccept(*engine.Session)                 {}
func (*echoes) OnSocketRead(s *engine.Session, p codec.Packet) { _ = s.Reply(p, p.Body) }
func (*echoes) OnSocketClose(*engine.Session, engine.Reason)   {}

// client is a peer of one node's server.
type client struct {
	t testing.TB
	net.Conn
	r *codec.Reader
	s *engine.Session
}

// dial connects a client, whose session is there when it returns.
func (m *member) dial() *client {
	m.t.Helper()
	conn, err := net.Dial("tcp", m.srv.Addrs()[0].String())
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { conn.Close() })
	c := &client{t: m.t, Conn: conn, r: codec.NewReader(conn, nil)}
	c.barrier()
	m.srv.Sessions(func(s *engine.Session) bool {
		if s.RemoteAddr().String() == conn.LocalAddr().String() {
			c.s = s
		}
		return c.s == nil
	})
	if c.s == nil {
		m.t.Fatal("no session of the client's")
	}
	return c
}

// barrier returns what came before the answer to a frame of its own.
func (c *client) barrier() (got []string) {
	c.t.Helper()
	if _, err := c.Write(codec.Packet{Main: 99, Sub: 99}.Append(nil)); err != nil {
		c.t.Fatal(err)
	}
	for {
		text := c.next()
		if text == "99/99 " {
			return got
		}
		got = append(got, text)
	}
}

// next is the next frame as "main/sub body", an ERROR as "error code", the end as "end".
func (c *client) next() string {
	c.t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(patience))
	p, err := c.r.Next()
	switch {
	case err == io.EOF:
		return "end"
	case err != nil:
		return err.Error()
	case p.Main == 0 && p.Sub == 3:
		return fmt.Sprintf("error %d", binary.BigEndian.Uint16(p.Body))
	}
	return fmt.Sprintf("%d/%d %s", p.Main, p.Sub, p.Body)
}

func (c *client) want(frames ...string) {
	c.t.Helper()
	for _, want := range frames {
		if got := c.next(); got != want {
			c.t.Fatalf("got %q, want %q", got, want)
		}
	}
}

// nothing wants that nothing has come.
func (c *client) nothing() {
	c.t.Helper()
	if got := c.barrier(); len(got) > 0 {
		c.t.Fatalf("got %q, want nothing", got)
	}
}

// eventually waits until something is so.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// names are the nodes that m knows, with their states.
func (m *member) names() string {
	var all []string
	for _, x := range m.List() {
		all = append(all, x.Name+"="+string(x.State))
	}
	return strings.Join(all, " ")
}

func (m *member) knows(want string) {
	m.t.Helper()
	eventually(m.t, m.Name()+" knows "+want+", and not "+m.names(), func() bool { return m.names() == want })
}

// together starts nodes that know each other.
func together(t testing.TB, url string, names string, change ...func(*settings)) (all []*member) {
	t.Helper()
	want := strings.ReplaceAll(names, " ", "=up ") + "=up"
	for name := range strings.FieldsSeq(names) {
		all = append(all, start(t, url, name, change...))
	}
	for _, m := range all {
		m.knows(want)
	}
	return all
}

func lease(d time.Duration) func(*settings) { return func(s *settings) { s.lease = d } }
