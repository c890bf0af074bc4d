package heldtest

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"millrace/codec"
	"millrace/engine"
)

const (
	kib = 1 << 10
	mib = 1 << 20
)

// childEnv makes this test binary a server instead of running tests.
const childEnv = "MILLRACE_HELD_CHILD"

// profileEnv has the child's heap profile know of every allocation.
const profileEnv = "MILLRACE_HELD_PROFILE"

// The requests that the child knows.
const (
	subEcho  = 1
	subBlock = 2 // waits until the child is told to release, without an answer
	subJoin  = 3 // joins a group: the body is its name
	subSink  = 4 // no answer
	subOwe   = 5 // the answer is owed until the child is told to release; the request is kept
)

// keptOfARequest is the size of those whose answer is owed, in bytes: what a usual handler
// keeps.
const keptOfARequest = 500

var raced bool // the race detector runs

func TestMain(m *testing.M) {
	if raced {
		return
	}
	if os.Getenv(childEnv) != "" {
		serve()
		return
	}
	flag.Set("test.parallel", "8") // they wait most of the time
	flag.Parse()
	os.Exit(m.Run())
}

// handler is the child's.
type handler struct {
	mu      sync.Mutex
	blocked chan struct{} // guarded by mu; closed by a release
	owed    []owed        // guarded by mu
}

type owed struct {
	request codec.Packet
	release func()
}

func (h *handler) OnSocketAccept(*engine.Session)               {}
func (h *handler) OnSocketClose(*engine.Session, engine.Reason) {}

func (h *handler) OnSocketRead(s *engine.Session, p codec.Packet) {
	switch p.Sub {
	case subEcho:
		s.Reply(p, p.Body)
	case subBlock:
		h.mu.Lock()
		wait := h.blocked
		h.mu.Unlock()
		<-wait
	case subJoin:
		s.Server().Group(string(p.Body)).Join(s)
		s.Reply(p, nil)
	case subOwe:
		h.mu.Lock()
		h.owed = append(h.owed, owed{p.Clone(), s.Hold()})
		h.mu.Unlock()
	}
}

func (h *handler) release() {
	h.mu.Lock()
	close(h.blocked)
	h.blocked = make(chan struct{})
	for _, o := range h.owed {
		o.release()
	}
	h.owed = nil
	h.mu.Unlock()
}

// serve is the child: it obeys commands on its standard input, one a line, and answers
// each with a line.
func serve() {
	if os.Getenv(profileEnv) != "" {
		runtime.MemProfileRate = 1
	}
	h := &handler{blocked: make(chan struct{})}
	srv, err := engine.New(engine.Config{
		Addrs: []string{"tcp://127.0.0.1:0"}, Loops: 2, Workers: 64, SpareWorkers: engine.Off, StallAfter: engine.Off,
		Dispatch: engine.Ordered, Socket: engine.Socket{SocketSendBuffer: 16 * kib}, Timeouts: engine.Timeouts{FirstFrameTimeout: engine.Off, FrameTimeout: engine.Off}, Limits: engine.Limits{MaxTasks: 1 << 20, MemoryBudget: 1 << 30}, Logger: slog.New(slog.DiscardHandler),
	}, h)
	if err == nil {
		err = srv.Start(context.Background())
	}
	if err != nil {
		fmt.Println("error", err)
		return
	}
	fmt.Println(strings.TrimPrefix(srv.Addrs()[0].String(), "tcp://"))
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var verb, arg string
		var n, size int
		fmt.Sscan(in.Text(), &verb, &n, &size, &arg)
		switch body := make([]byte, size); verb {
		case "counted":
			fmt.Println(srv.Stats().Memory)
			continue
		case "memory":
			var m runtime.MemStats
			runtime.GC()
			runtime.GC() // what a pool has given up is free only now
			runtime.ReadMemStats(&m)
			fmt.Println(m.HeapAlloc, srv.Stats().Memory)
			continue
		case "profile": // an aid: go tool pprof -sample_index=inuse_space held.prof
			f, _ := os.Create("held.prof")
			pprof.WriteHeapProfile(f)
			f.Close()
		case "conns":
			fmt.Println(srv.Stats().Conns)
			continue
		case "broadcast":
			for range n {
				for srv.Broadcast(2, 1, body) != nil {
					runtime.Gosched()
				}
			}
		case "group":
			for range n {
				for {
					if _, err := srv.Group(arg).Send(2, 2, body); err == nil {
						break
					}
					runtime.Gosched()
				}
			}
		case "push":
			srv.Sessions(func(s *engine.Session) bool {
				for range n {
					for s.Push(2, 3, body) == engine.ErrOutboxFull {
						runtime.Gosched()
					}
				}
				return true
			})
		case "submit":
			srv.Sessions(func(s *engine.Session) bool {
				for i := range n {
					s.Submit(func() { size += i })
				}
				return true
			})
		case "release":
			h.release()
		}
		fmt.Println("done")
	}
}

// child is a server in its own process.
type child struct {
	testing.TB
	in   io.Writer
	out  *bufio.Scanner
	addr string
}

func start(t testing.TB) *child {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"=1")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	c := &child{TB: t, in: in, out: bufio.NewScanner(out)}
	c.addr = c.line()
	return c
}

func (c *child) line() string {
	c.Helper()
	if !c.out.Scan() {
		c.Fatalf("the child has ended: %v", c.out.Err())
	}
	return c.out.Text()
}

// do gives a command and returns the answer.
func (c *child) do(format string, args ...any) string {
	c.Helper()
	fmt.Fprintf(c.in, format+"\n", args...)
	return c.line()
}

// counted is what the server says it holds, once that stands still, in bytes.
func (c *child) counted() (n int) {
	c.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	last, same := -1, 0
	for end := time.Now().Add(20 * time.Second); same < 4; <-tick.C {
		fmt.Sscan(c.do("counted"), &n)
		if same++; n != last {
			last, same = n, 0
		}
		if time.Now().After(end) {
			c.Fatal("what is held goes on changing for 20 s")
		}
	}
	return n
}

// memory is the heap after a collection, and what the server says it holds, in bytes.
func (c *child) memory() (heap, counted int) {
	c.Helper()
	c.counted()
	fmt.Sscan(c.do("memory"), &heap, &counted)
	return heap, counted
}
