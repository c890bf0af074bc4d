package engine

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"os/exec"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"millrace/codec"
)

// childEnv names the child that this test binary is to be, instead of running tests.
const childEnv = "MILLRACE_ENGINE_CHILD"

// childConfig is what a child is told by its second environment variable.
type childConfig struct {
	Config Config
	Files  uint64 // RLIMIT_NOFILE; 0: as it is
	Sleep  time.Duration
	TLS    bool // with testCert
	Net    int  // not 0: in a network of its own, with a link vb, 10.9.8.2, to va in that of thread Net
}

// child is a server in a process of its own, so that its memory and its files can be
// looked at. It echoes; 1/2 broadcasts ten times, 1/4 sleeps before it echoes.
type child struct {
	t    testing.TB
	cmd  *exec.Cmd
	in   io.Writer
	out  *bufio.Scanner
	addr string
}

func runChild(string) {
	var cc childConfig
	if err := json.Unmarshal([]byte(os.Getenv(childEnv+"_CONFIG")), &cc); err != nil {
		panic(err)
	}
	if cc.Files > 0 {
		r := syscall.Rlimit{Cur: cc.Files, Max: cc.Files}
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &r); err != nil {
			panic(err)
		}
	}
	if cc.Net != 0 {
		ip(fmt.Sprint("link add name vb type veth peer name va netns ", cc.Net))
		ip("addr add 10.9.8.2/30 dev vb")
		ip("link set vb up")
	}
	cc.Config.Logger = textLog(os.Stderr)
	if cc.TLS {
		cc.Config.TLS = serverTLS()
	}
	srv, err := New(cc.Config, &funcs{read: func(s *Session, p codec.Packet) {
		switch p.Sub {
		case 2:
			for range 10 {
				s.Broadcast(1, 2, p.Body)
			}
		case 3: // without end
			for s.Push(1, 3, make([]byte, 60_000)) == nil && s.Stats().Unsent < 600_000 {
				time.Sleep(time.Millisecond)
			}
		case 4:
			time.Sleep(cc.Sleep)
			echo(s, p)
		case 5: // so that an answer does not weigh what its request did
			time.Sleep(cc.Sleep)
			s.Reply(p, p.Body[:8])
		default:
			echo(s, p)
		}
	}})
	if err == nil {
		err = srv.Start(context.Background())
	}
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	debug.FreeOSMemory()
	fmt.Println("ready", srv.Addrs()[0])
	var held []*os.File
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		switch f := strings.Fields(in.Text()); f[0] {
		case "stats":
			b, _ := json.Marshal(srv.Stats())
			fmt.Println(string(b))
		case "hog": // open files until so many are left
			left, _ := strconv.Atoi(f[1])
			for lowestFree() < int(cc.Files)-left {
				h, err := os.Open("/dev/null")
				if err != nil {
					break
				}
				held = append(held, h)
			}
			fmt.Println("holding", len(held))
		case "free":
			for _, h := range held {
				h.Close()
			}
			held = nil
			fmt.Println("free")
		case "err":
			fmt.Println("err", srv.Err())
		case "stop":
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
			fmt.Println("stopped", srv.Stop(ctx))
			cancel()
		}
	}
	os.Exit(0)
}

// lowestFree is the number that the next descriptor will get.
func lowestFree() int {
	fd, err := syscall.Dup(0)
	if err != nil {
		return math.MaxInt
	}
	syscall.Close(fd)
	return fd
}

func ip(args string) {
	if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
		panic(fmt.Sprintf("ip %s: %v: %s", args, err, out))
	}
}

// spawn starts a child, whose end comes with the test's.
func spawn(t testing.TB, cc childConfig) *child {
	t.Helper()
	c, text := trySpawn(t, cc)
	if c == nil {
		t.Fatal(text)
	}
	return c
}

func trySpawn(t testing.TB, cc childConfig) (*child, string) {
	t.Helper()
	if len(cc.Config.Addrs) == 0 {
		cc.Config.Addrs = []string{"tcp://127.0.0.1:0"}
	}
	b, err := json.Marshal(cc)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"=server", childEnv+"_CONFIG="+string(b))
	if cc.Net != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	}
	cmd.Stderr = os.Stderr
	if !testing.Verbose() {
		cmd.Stderr = io.Discard
	}
	in, _ := cmd.StdinPipe()
	out, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		cmd.Process.Kill()
		cmd.Wait()
	})
	c := &child{t: t, cmd: cmd, in: in, out: bufio.NewScanner(out)}
	c.out.Buffer(nil, 1<<20)
	if !c.out.Scan() {
		t.Fatal("the child said nothing")
	}
	kind, rest, _ := strings.Cut(c.out.Text(), " ")
	if kind != "ready" {
		return nil, rest
	}
	c.addr = rest
	return c, ""
}

// ask sends the child a command and returns its answer.
func (c *child) ask(command string) string {
	c.t.Helper()
	fmt.Fprintln(c.in, command)
	if !c.out.Scan() {
		c.t.Fatalf("the child has gone at %q", command)
	}
	return c.out.Text()
}

func (c *child) stats() (st Stats) {
	c.t.Helper()
	if err := json.Unmarshal([]byte(c.ask("stats")), &st); err != nil {
		c.t.Fatal(err)
	}
	return st
}

func (c *child) dial() *client {
	c.t.Helper()
	a, _ := net.ResolveTCPAddr("tcp", c.addr)
	cl, err := dialAddr(c.t, a)
	if err != nil {
		c.t.Fatal(err)
	}
	return cl
}

// rss is the child's resident memory in bytes.
func (c *child) rss() int {
	c.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", c.cmd.Process.Pid))
	if err != nil {
		c.t.Fatal(err)
	}
	pages, _ := strconv.Atoi(strings.Fields(string(b))[1])
	return pages * os.Getpagesize()
}
