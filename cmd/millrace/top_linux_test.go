package main

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/internal/proctest"
)

// operated starts a server with an operator's door at where.
func operated(t *testing.T, where string, args ...string) *process {
	t.Helper()
	return serve(t, append([]string{"--admin", where}, args...)...)
}

// freeAddr is HOST:PORT where nobody listens.
func freeAddr(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// topOnce waits until millrace top --once says what ok asks for.
func topOnce(t *testing.T, env []string, args []string, ok func(string) bool) string {
	t.Helper()
	var out string
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		stdout, stderr, code := millrace(t, env, "", append([]string{"top", "--once"}, args...)...)
		if code != 0 || stderr != "" {
			t.Fatalf("top %v: exit code %d, %s", args, code, stderr)
		}
		if out = stdout; ok(out) {
			return out
		}
	}
	t.Fatalf("top %v never said it; last:\n%s", args, out)
	return ""
}

func TestTopShowsTheServerOnce(t *testing.T) {
	door := freeAddr(t)
	s := operated(t, door, "--loops", "2", "--max-conns", "4")
	for range 4 {
		s.dial().echo("hello")
	}
	for range 3 {
		s.dial().wantError(12, 0, 0) // there is no place for a fifth
	}
	out := topOnce(t, []string{"COLUMNS=120"}, []string{door}, func(out string) bool {
		return strings.Contains(out, "REFUSED   max_conns") && strings.Contains(out, "FULL      max-conns")
	})
	for _, want := range []string{
		`(?m)^millrace .*  ready  up \d+s  4 sessions  \d\d:\d\d:\d\d$`,
		`(?m)^REFUSED   max_conns +connections refused: .*\(--max-conns`,
		`(?m)^max-conns +\[####################\] +4 +4 +1`,
		`(?m)^0 +[0-4] +\S`, `(?m)^1 +[0-4] +\S`, // both loops
		`(?m)^1/1 .* 4$`,
		`(?m)^\d+\.\d+ +127\.0\.0\.1:\d+ +0 B +0 B +1 +`,
	} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("it does not say %s:\n%s", want, out)
		}
	}
	if strings.Contains(out, "\x1b") {
		t.Errorf("colours on what is no terminal:\n%q", out)
	}
	for _, line := range strings.Split(out, "\n") {
		if n := len([]rune(line)); n > 120 {
			t.Errorf("%d columns, want 120 at most: %s", n, line)
		}
	}
}

// With --costs it says who takes the time: session, handle and tag.
func TestTopSaysWhoCostsWhat(t *testing.T) {
	door := freeAddr(t)
	s := operated(t, door, "--costs")
	c := s.dial()
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			default:
				c.echo(strings.Repeat("x", 10_000))
			}
		}
	}()
	defer func() { close(stop); <-ended }()
	out := topOnce(t, []string{"COLUMNS=160"}, []string{door, "--sort", "cpu"}, func(out string) bool {
		return strings.Contains(out, "WHO COSTS WHAT: ") && strings.Contains(out, "1/1")
	})
	addr := regexp.QuoteMeta(c.LocalAddr().String())
	for _, want := range []string{
		`(?m)^WHO COSTS WHAT: [\d.]+(µs|ms|s) of [\d.]+(ms|s) a second, that of the process$`,
		`(?m)^\d+\.\d+ +` + addr + ` +[\d.]+(µs|ms) +(1/1|none) +[\d.]+(µs|ms) +without +[\d.]+(µs|ms)$`,
		`(?m)^BY CPU `,
	} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("it does not say %s:\n%s", want, out)
		}
	}
}

func TestTopAsksThroughASocketAndWithAToken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin.sock")
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("the-right-one\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	operated(t, "unix://"+path, "--admin-token-file", file)
	ready := func(out string) bool { return strings.Contains(out, "  ready  ") }
	topOnce(t, nil, []string{"unix:" + path, "--token-file", file}, ready)
	topOnce(t, nil, []string{"unix://" + path, "--token", "the-right-one"}, ready)
	topOnce(t, []string{"MILLRACE_ADMIN_TOKEN=the-right-one"}, []string{"unix:" + path}, ready)
	for _, c := range []struct {
		env, args []string
		want      string
	}{
		{nil, nil, "requires a token; give --token-file or MILLRACE_ADMIN_TOKEN"},
		{[]string{"MILLRACE_ADMIN_TOKEN=wrong"}, nil, "does not accept this token"},
		{nil, []string{"--token-file", "/nonexistent"}, `--token-file "/nonexistent": no such file`},
	} {
		_, stderr, code := millrace(t, c.env, "", append([]string{"top", "--once", "unix:" + path}, c.args...)...)
		if code != exitUsage || !strings.Contains(stderr, c.want) || strings.Count(stderr, "\n") != 1 || strings.Contains(stderr, "wrong") {
			t.Errorf("%v %v: exit code %d, %q; want %d and one line with %q", c.env, c.args, code, stderr, exitUsage, c.want)
		}
	}
}

func TestTopSaysWhyItCanNotShow(t *testing.T) {
	s := serve(t)
	mute := silent(t)
	for _, c := range []struct {
		addr string
		code int
		want string
	}{
		{freeAddr(t), exitNoServer, ": connect: connection refused; is it the server's --admin?"},
		{"--timeout=300ms " + mute, exitTimeout, mute + ": no answer within --timeout"},
		{"unix:/nonexistent/admin.sock", exitNoServer, "is it the server's --admin?"},
		{strings.TrimPrefix(s.ready[0], "tcp://"), exitNoServer, "is it the server's --admin?"}, // the wrong door
		{"7070", exitUsage, `ADDR "7070": must be HOST:PORT`},
		{"https://127.0.0.1:7070", exitUsage, "must be HOST:PORT"},
		{"127.0.0.1:70707", exitUsage, "must be HOST:PORT"},
		{"http://127.0.0.1:7070/metrics", exitUsage, "must be HOST:PORT"},
		{"unix:", exitUsage, "must be unix:PATH"},
		{"--interval=0s 127.0.0.1:7070", exitUsage, "--interval 0s: must be 50ms or more"},
		{"--limit=0 127.0.0.1:7070", exitUsage, "--limit 0: must be 1 or more"},
		{"--timeout=0s 127.0.0.1:7070", exitUsage, "--timeout 0s: must be above 0"},
	} {
		_, stderr, code := millrace(t, nil, "", append([]string{"top", "--once"}, strings.Fields(c.addr)...)...)
		if code != c.code || !strings.Contains(stderr, c.want) || strings.Count(stderr, "\n") != 1 || strings.Contains(stderr, "Get ") {
			t.Errorf("top %s: exit code %d, %q; want %d and one line with %q", c.addr, code, stderr, c.code, c.want)
		}
	}
}

// silent is the address of a listener whose connections nobody answers.
func silent(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}

// terminal runs top in a terminal of its own, made by script(1).
func terminal(t *testing.T, env []string, keys, addr string) string {
	t.Helper()
	script, err := exec.LookPath("script")
	if err != nil {
		proctest.Missing(t, "no script(1) here: ", err)
	}
	cmd := exec.Command(script, "-qec", "stty rows 30 cols 100; exec "+program+" top --interval 50ms "+addr, "/dev/null")
	cmd.Env = append(environ(env...), "TERM=xterm")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out lockedBuffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	until(t, "three frames", func() bool { return strings.Count(out.String(), "\x1b[H") >= 3 })
	for _, k := range keys {
		if _, err := in.Write([]byte(string(k))); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("top ended with %v: %q", err, out.String())
		}
	case <-time.After(patience):
		t.Fatalf("top did not end at %q", keys)
	}
	return out.String()
}

func TestTopInATerminal(t *testing.T) {
	door := freeAddr(t)
	operated(t, door)
	out := terminal(t, nil, "bq", door)
	for what, ok := range map[string]bool{
		"takes the other screen and gives it back": strings.Contains(out, "\x1b[?1049h") && strings.HasSuffix(strings.TrimSpace(out), "\x1b[?1049l"),
		"shows the cursor again":                   strings.Contains(out, "\x1b[?25h"),
		"is in colour":                             strings.Contains(out, "\x1b[32m"),
		"takes keys":                               strings.Contains(out, "BY BYTES"),
	} {
		if !ok {
			t.Errorf("not: %s: %q", what, out)
		}
	}
	for _, frame := range strings.Split(out, "\x1b[H")[1:] {
		if n := strings.Count(frame, "\r\n"); n > 30 {
			t.Errorf("%d lines on a terminal of 30", n)
		}
	}
	if out := terminal(t, []string{"NO_COLOR=1"}, "q", door); regexp.MustCompile(`\x1b\[\d*m`).MatchString(out) {
		t.Errorf("colours in spite of NO_COLOR: %q", out)
	}
}

func TestTopStaysWhenTheServerGoes(t *testing.T) {
	door := freeAddr(t)
	s := operated(t, door)
	script, err := exec.LookPath("script")
	if err != nil {
		proctest.Missing(t, "no script(1) here: ", err)
	}
	cmd := exec.Command(script, "-qec", "exec "+program+" top --interval 50ms "+door, "/dev/null")
	cmd.Env = append(environ(), "TERM=xterm")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	var out lockedBuffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	until(t, "a frame", func() bool { return strings.Contains(out.String(), "  ready  ") })
	s.cmd.Process.Kill()
	until(t, "that nobody answers", func() bool { return strings.Contains(out.String(), "no answer since ") })
	n := len(out.String())
	operated(t, door)
	until(t, "that it is there again", func() bool {
		frames := strings.Split(out.String()[n:], "\x1b[H")
		return strings.Contains(frames[len(frames)-1], "  ready  ") && !strings.Contains(frames[len(frames)-1], "no answer")
	})
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never saw %s", what)
		}
	}
}

// lockedBuffer may be written and read at the same time.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
