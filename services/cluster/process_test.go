package cluster_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/services"
	"millrace/services/cachetest"
	"millrace/services/cluster"
)

// Where a lease must end soon it is one that a machine which stands still for half
// a second at a time can still renew; where it must not end, a long one.
const (
	lease  = 2 * time.Second
	steady = time.Minute
)

// within is how late what should come at once may be; what it is compared with
// would take a lock's ttl (an hour), or a steady lease.
const within = 20 * time.Second

// child is the other process: it takes commands, one a line, and answers each.
func child(url, lease string) {
	d, err := time.ParseDuration(lease)
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	c, err := cluster.New(cluster.Config{URL: url, Lease: d})
	if err == nil {
		err = c.Start(background)
	}
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	fmt.Println("ready")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		f := strings.Fields(in.Text())
		fmt.Println(command(c, f))
	}
	_ = c.Stop(background)
}

func command(c *cluster.Cache, f []string) string {
	num := func(i int) (n int) {
		_, _ = fmt.Sscan(f[i], &n)
		return n
	}
	switch f[0] {
	case "increment":
		return fmt.Sprint(cachetest.Increment(c, f[1], num(2)))
	case "lock":
		token, err := services.LockAndWait(background, c, f[1], services.LockOptions{
			TTL: time.Duration(num(2)) * time.Millisecond, Wait: time.Duration(num(3)) * time.Millisecond})
		return fmt.Sprint(token, " ", err)
	case "unlock":
		ok, err := c.Unlock(background, f[1], uint64(num(2)))
		return fmt.Sprint(ok, " ", err)
	case "guard":
		return fmt.Sprint(guard(c, f[1], f[2], num(3)))
	}
	return "what?"
}

// guard takes the lock rounds times and, while it has it, appends its token to
// the file; the file is made for one holder only, so a second one is an error.
func guard(c *cluster.Cache, key, file string, rounds int) error {
	for range rounds {
		token, err := services.LockAndWait(background, c, key, services.LockOptions{TTL: time.Minute, Wait: time.Minute})
		if err != nil || token == 0 {
			return fmt.Errorf("lock: token %d, %w", token, err)
		}
		alone, err := os.OpenFile(file+".alone", os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return fmt.Errorf("a second holder: %w", err)
		}
		_ = alone.Close()
		log, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		fmt.Fprintln(log, token)
		_ = log.Close()
		_ = os.Remove(file + ".alone")
		if ok, err := c.Unlock(background, key, token); !ok || err != nil {
			return fmt.Errorf("unlock: %v, %w", ok, err)
		}
	}
	return nil
}

// process is a running child.
type process struct {
	testing.TB
	cmd *exec.Cmd
	in  io.Writer
	out *bufio.Scanner
}

func startProcess(tb testing.TB, url string, lease time.Duration) *process {
	tb.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "MILLRACE_CLUSTER_ROLE="+url, "MILLRACE_CLUSTER_LEASE="+lease.String())
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	p := &process{TB: tb, cmd: cmd, in: in, out: bufio.NewScanner(out)}
	tb.Cleanup(func() {
		_ = in.Close()
		p.kill()
	})
	if got := p.read(); got != "ready" {
		tb.Fatalf("child: got %q", got)
	}
	return p
}

func (p *process) read() string {
	if !p.out.Scan() {
		return "gone"
	}
	return p.out.Text()
}

func (p *process) send(format string, args ...any) { fmt.Fprintf(p.in, format+"\n", args...) }

func (p *process) do(format string, args ...any) string {
	p.send(format, args...)
	return p.read()
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

func (p *process) lock(key string, ttl, wait time.Duration) uint64 {
	p.Helper()
	p.send("lock %s %d %d", key, ttl.Milliseconds(), wait.Milliseconds())
	return p.locked()
}

// locked reads the answer to a lock command.
func (p *process) locked() (token uint64) {
	p.Helper()
	answer := p.read()
	if n, _ := fmt.Sscanf(answer, "%d <nil>", &token); n != 1 {
		p.Fatalf("lock: got %q", answer)
	}
	return token
}

func TestTwoProcessesIncrementWithoutLoss(t *testing.T) {
	total := 1000
	if *long {
		total = 20000
	}
	srv := embedded(t)
	c := open(t, srv.URL(), steady)
	if _, err := c.Set(background, "n", []byte("0"), 0); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 2 {
		p := startProcess(t, srv.URL(), steady)
		wg.Go(func() {
			if got := p.do("increment n %d", total/2); got != "<nil>" {
				t.Error(got)
			}
		})
	}
	wg.Wait()
	if e, err := c.Get(background, "n"); string(e.Value) != fmt.Sprint(total) || err != nil {
		t.Errorf("got %s, %v, want %d", e.Value, err, total)
	}
}

func TestTwoProcessesNeverHoldOneLock(t *testing.T) {
	const rounds = 150
	srv := embedded(t)
	file := t.TempDir() + "/tokens"
	c := open(t, srv.URL(), steady)
	var wg sync.WaitGroup
	for range 2 {
		p := startProcess(t, srv.URL(), steady)
		wg.Go(func() {
			if got := p.do("guard l %s %d", file, rounds); got != "<nil>" {
				t.Error(got)
			}
		})
	}
	wg.Go(func() {
		if err := guard(c, "l", file, rounds); err != nil {
			t.Error(err)
		}
	})
	wg.Wait()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	tokens := strings.Fields(string(b))
	last := uint64(0)
	for _, text := range tokens {
		var token uint64
		if _, err := fmt.Sscan(text, &token); err != nil || token <= last {
			t.Fatalf("token %s after %d: want growing", text, last)
		}
		last = token
	}
	if len(tokens) != 3*rounds {
		t.Errorf("got %d tokens, want %d", len(tokens), 3*rounds)
	}
}

func TestAKilledHoldersLockIsFreeWithinALease(t *testing.T) {
	srv := embedded(t)
	c := open(t, srv.URL(), lease)
	p := startProcess(t, srv.URL(), lease)
	token := p.lock("l", time.Hour, 0)
	if token == 0 {
		t.Fatal("the child did not get the lock")
	}
	if again, err := services.LockAndWait(background, c, "l", services.LockOptions{TTL: time.Hour, Wait: 2 * lease}); again != 0 || err != nil {
		t.Fatalf("while the holder lives: got token %d, %v", again, err)
	}
	p.kill() // SIGKILL
	start := time.Now()
	next, err := services.LockAndWait(background, c, "l", services.LockOptions{TTL: time.Hour, Wait: time.Minute})
	free := time.Since(start)
	if err != nil || next <= token {
		t.Fatalf("got token %d after %d, %v", next, token, err)
	}
	t.Logf("free %v after SIGKILL, lease %v", free, lease)
	if free > lease+within {
		t.Errorf("free %v after SIGKILL, want a lease (%v)", free, lease)
	}
	// One that starts after the kill counts a lease from its start.
	p = startProcess(t, srv.URL(), lease)
	if token = p.lock("m", time.Hour, 0); token == 0 {
		t.Fatal("the second child did not get the lock")
	}
	p.kill()
	late := startProcess(t, srv.URL(), lease)
	start = time.Now()
	if next := late.lock("m", time.Hour, time.Minute); next <= token || time.Since(start) > lease+within {
		t.Errorf("a late process got token %d after %v", next, time.Since(start))
	}
}

func TestALockGoesFromProcessToProcess(t *testing.T) {
	srv := embedded(t)
	c := open(t, srv.URL(), steady)
	p := startProcess(t, srv.URL(), steady)
	token, err := services.LockAndWait(background, c, "l", services.LockOptions{TTL: time.Hour, Owner: "me"})
	if err != nil || token == 0 {
		t.Fatalf("got %d, %v", token, err)
	}
	// Whoever has the token may unlock.
	if got := p.do("unlock l %d", token+1); got != "false <nil>" {
		t.Errorf("a wrong token: got %q", got)
	}
	if got := p.do("unlock l %d", token); got != "true <nil>" {
		t.Errorf("unlock elsewhere: got %q", got)
	}
	if ok, err := c.Unlock(background, "l", token); ok || err != nil {
		t.Errorf("unlock again: got %v, %v", ok, err)
	}
	// Unlocked elsewhere is free here at once, whether or not the watch has told.
	for range 50 {
		if token, err = services.LockAndWait(background, c, "l", services.LockOptions{TTL: time.Hour}); err != nil || token == 0 {
			t.Fatalf("got %d, %v", token, err)
		}
		if got := p.do("unlock l %d", token); got != "true <nil>" {
			t.Fatalf("unlock elsewhere: got %q", got)
		}
	}
	// An owner's release is passed on, without waiting for a lease.
	if token, err = services.LockAndWait(background, c, "l", services.LockOptions{TTL: time.Hour, Owner: "me"}); err != nil || token == 0 {
		t.Fatalf("got %d, %v", token, err)
	}
	p.send("lock l %d %d", time.Hour.Milliseconds(), time.Hour.Milliseconds())
	time.Sleep(100 * time.Millisecond) // it waits by then, mostly
	start := time.Now()
	if n := c.Release("me"); n != 1 {
		t.Errorf("release: got %d", n)
	}
	if next := p.locked(); next <= token || time.Since(start) > within {
		t.Errorf("got token %d after %d, %v after the release", next, token, time.Since(start))
	}
}

func TestAStoppedServerComesBackWithItsData(t *testing.T) {
	dir := t.TempDir()
	start := func() *cluster.Embedded {
		e, err := cluster.StartEmbedded(cluster.EmbeddedConfig{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(e.Stop)
		return e
	}
	srv := start()
	c := open(t, srv.URL(), lease, func(cfg *cluster.Config) { cfg.Timeout = 2 * time.Second })
	if _, err := c.Set(background, "a", []byte("kept"), 0); err != nil {
		t.Fatal(err)
	}
	token, err := services.LockAndWait(background, c, "l", services.LockOptions{TTL: time.Hour})
	if err != nil || token == 0 {
		t.Fatal(token, err)
	}
	srv.Stop()
	if _, err := c.Get(background, "a"); !isDown(err) {
		t.Errorf("get without a server: got %v, want ErrCacheDown", err)
	}
	if _, err := services.LockAndWait(background, c, "m", services.LockOptions{TTL: time.Hour}); !isDown(err) {
		t.Errorf("lock without a server: got %v, want ErrCacheDown", err)
	}
	time.Sleep(lease + 200*time.Millisecond)
	if ok, _ := c.Unlock(background, "l", token); ok {
		t.Error("unlock after a lease without a server: got true")
	}
	srv = start()
	if !srv.Own() {
		t.Error("the server is not this process's")
	}
	end := time.Now().Add(time.Minute)
	for {
		e, err := c.Get(background, "a")
		if err == nil && string(e.Value) == "kept" {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("get after the restart: %q, %v", e.Value, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	// Once any lock is given the lease has been renewed; the old ones stay lost.
	if other, err := services.LockAndWait(background, c, "m", services.LockOptions{TTL: time.Hour, Wait: time.Minute}); other == 0 || err != nil {
		t.Fatalf("another lock after the restart: %d, %v", other, err)
	}
	next, err := services.LockAndWait(background, c, "l", services.LockOptions{TTL: time.Hour, Wait: time.Minute})
	if err != nil || next <= token {
		t.Errorf("after the restart: got token %d after %d, %v", next, token, err)
	}
	if err := c.Stop(background); err != nil { // before the server's cleanup
		t.Error(err)
	}
}

func TestTwoStartsOnOneDirectoryShareAServer(t *testing.T) {
	dir := t.TempDir()
	first, err := cluster.StartEmbedded(cluster.EmbeddedConfig{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer first.Stop()
	second, err := cluster.StartEmbedded(cluster.EmbeddedConfig{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer second.Stop()
	if !first.Own() || second.Own() || first.URL() != second.URL() {
		t.Errorf("got %s (own %v) and %s (own %v)", first.URL(), first.Own(), second.URL(), second.Own())
	}
	for _, cfg := range []cluster.EmbeddedConfig{{}, {Dir: dir, Host: "0.0.0.0"}, {Dir: dir, Host: "localhost"}} {
		if e, err := cluster.StartEmbedded(cfg); err == nil {
			e.Stop()
			t.Errorf("%+v: want an error", cfg)
		}
	}
}
