package gnetio

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// childEnv makes this test binary a server, which echoes, instead of running tests.
const childEnv = "GNETIO_CHILD"

type childConfig struct {
	Addrs   []string
	Single  bool
	Balance Balance
	Loops   int
	Files   uint64 // RLIMIT_NOFILE; 0: as it is
}

func runChild() {
	var cc childConfig
	if err := json.Unmarshal([]byte(os.Getenv(childEnv)), &cc); err != nil {
		panic(err)
	}
	if cc.Files > 0 {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: cc.Files, Max: cc.Files}); err != nil {
			panic(err)
		}
	}
	h := &echoHost{}
	n := New(Config{Addrs: cc.Addrs, Single: cc.Single, Balance: cc.Balance, Loops: max(cc.Loops, 1), Logger: quiet, Linger: time.Second}, h)
	in := bufio.NewScanner(os.Stdin)
	fmt.Println("up")
	in.Scan() // all start at once
	if err := n.Start(context.Background()); err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	fmt.Println("ready", n.Addrs()[0])
	var held []int
	var ticks sync.Mutex // held from hog to free: accepting is to fail, and not to be paused before
	ticking := false
	ticks.Lock()
	go func() {
		for range time.Tick(20 * time.Millisecond) {
			ticks.Lock()
			n.Guard()
			ticks.Unlock()
		}
	}()
	for in.Scan() {
		switch in.Text() {
		case "hog":
			if held == nil && ticking {
				ticks.Lock()
				ticking = false
			}
			for {
				fd, err := unix.Open("/dev/null", unix.O_RDONLY, 0)
				if err != nil {
					break
				}
				held = append(held, fd)
			}
		case "free one":
			unix.Close(held[0])
			held = held[1:]
		case "hands":
			var sum [nobodys + 1]int
			for _, el := range h.all() {
				done := make(chan struct{})
				el.do(func() {
					for _, c := range el.n.(*loop).conns {
						if c != nil {
							sum[c.hands]++
						}
					}
					close(done)
				})
				<-done
			}
			fmt.Println(sum)
			continue
		case "free":
			for _, fd := range held {
				unix.Close(fd)
			}
			held = nil
			if !ticking {
				ticks.Unlock()
				ticking = true
			}
		case "stop":
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			n.Stop(ctx)
			cancel()
		}
		failed := ""
		if err := h.failed.Load(); err != nil {
			failed = (*err).Error()
		}
		fmt.Println("errors", h.acceptErrs.Load(), failed)
	}
	os.Exit(0)
}

type child struct {
	t    testing.TB
	cmd  *exec.Cmd
	in   io.Writer
	out  *bufio.Scanner
	addr string // once it is ready
}

// prepare makes a child that waits to be told to start.
func prepare(t testing.TB, cc childConfig) *child {
	t.Helper()
	b, err := json.Marshal(cc)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+string(b))
	in, _ := cmd.StdinPipe()
	out, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); cmd.Process.Kill(); cmd.Wait() })
	c := &child{t: t, cmd: cmd, in: in, out: bufio.NewScanner(out)}
	if !c.out.Scan() {
		t.Fatal("the child said nothing")
	}
	return c
}

// start returns the error that the child's Start had.
func (c *child) start() string {
	kind, rest, _ := strings.Cut(c.ask("start"), " ")
	if kind == "ready" {
		c.addr = rest
		return ""
	}
	return rest
}

func (c *child) ask(command string) string {
	fmt.Fprintln(c.in, command)
	if !c.out.Scan() {
		c.t.Errorf("the child has gone at %q", command)
	}
	return c.out.Text()
}

func openFiles(t testing.TB) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(d)
}

// All files eaten, whoever accepts: connections are served on, one that comes then
// waits, and is served when there are files again.
func TestAcceptWithoutFilesEndsNothing(t *testing.T) {
	for _, cc := range []childConfig{
		{}, {Single: true}, {Single: true, Balance: LeastConnections}, {Addrs: []string{"unix://" + t.TempDir() + "/s"}},
	} {
		t.Run(fmt.Sprint(cc.Single, cc.Balance, len(cc.Addrs)), func(t *testing.T) {
			network := "tcp"
			if len(cc.Addrs) > 0 {
				network = "unix"
			} else {
				cc.Addrs = []string{"tcp://127.0.0.1:0"}
			}
			cc.Files = 200
			srv := prepare(t, cc)
			if err := srv.start(); err != "" {
				t.Fatal(err)
			}
			var at net.Addr = &net.UnixAddr{Name: srv.addr, Net: "unix"}
			if network == "tcp" {
				at, _ = net.ResolveTCPAddr("tcp", srv.addr)
			}
			old := dial(t, at)
			old.says("old")
			for range 2 {
				srv.ask("hog")
				late := dial(t, at)
				late.send("late")
				for range 10 {
					old.says("still")
				}
				waitFor(t, "a failed accept", func() bool {
					old.says("still")
					return !strings.HasPrefix(srv.ask("errors"), "errors 0")
				})
				srv.ask("free")
				late.gets("late")
				late.Close()
			}
			if got := srv.ask("errors"); len(strings.Fields(got)) != 2 {
				t.Error("the loops have ended: ", got)
			}
		})
	}
}
