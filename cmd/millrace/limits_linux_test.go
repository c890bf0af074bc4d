package main

import (
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// limited is a command line of serve with an open-file limit.
func limited(files int, args ...string) *exec.Cmd {
	line := fmt.Sprintf(`ulimit -n %d && exec "$0" serve "$@"`, files)
	return exec.Command("sh", append([]string{"-c", line, program}, args...)...)
}

// Row 8: running out of descriptors ends neither the server nor its sessions.
func TestABurstOverTheOpenFileLimitIsSurvived(t *testing.T) {
	const dials, places, rounds = 600, 60, 20
	var own syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &own); own.Cur < dials+100 {
		t.Skipf("the test's own open-file limit is %d", own.Cur)
	}
	s := launch(t, limited(160, "--addr", "tcp://127.0.0.1:0", "--max-conns", fmt.Sprint(places)))
	old := s.dial()
	old.echo("first")
	for round := range rounds {
		served, refused := burst(t, s.ready[0], dials, places-1)
		if !s.running() {
			t.Fatalf("round %d: the server has ended", round)
		}
		old.echo("undisturbed")
		if served+refused != dials || served > places-1 {
			t.Fatalf("round %d: %d served, %d turned away of %d", round, served, refused, dials)
		}
		if round == rounds-1 && served != places-1 {
			t.Errorf("the last round: %d served, want %d", served, places-1)
		}
	}
	s.stop()
}

// burst dials n times at once, waits until most are turned away and counts how many of
// the rest get an echo.
func burst(t *testing.T, addr string, n, places int) (served, refused int) {
	t.Helper()
	_, host, _ := strings.Cut(addr, "://")
	var in, out atomic.Int64
	turned := make(chan struct{}) // all but places are
	var once sync.Once
	ask := make(chan struct{})
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			ended := func() {
				if out.Add(1) == int64(n-places) {
					once.Do(func() { close(turned) })
				}
			}
			conn, err := net.DialTimeout("tcp", host, patience)
			if err != nil {
				t.Errorf("dial: %v", err)
				ended()
				return
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(patience))
			p := &peer{t: t, Conn: conn, r: newReader(conn)}
			told := make(chan error, 1)
			go func() {
				f, err := p.next()
				if code, _, ok := parseErrorFrame(f); ok && code == 12 {
					err = errTurnedAway
				}
				told <- err
			}()
			select {
			case err = <-told:
			case <-ask:
				conn.Write(packet{1, 1, "in"}.bytes())
				err = <-told
			}
			switch {
			case err == nil:
				in.Add(1)
			case errors.Is(err, errTurnedAway), errClosed(err):
				ended()
			default:
				t.Errorf("neither served nor told: %v", err)
			}
		})
	}
	select {
	case <-turned:
	case <-time.After(patience):
		t.Error("connections over the limit were not told so")
	}
	close(ask)
	all.Wait()
	return int(in.Load()), int(out.Load())
}

var errTurnedAway = errors.New("turned away")

func TestMoreConnectionsThanOpenFilesIsRefusedAtStart(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
	}{
		{"too many connections", []string{"--max-conns", "1000"}},
		{"single acceptor", []string{"--max-conns", "60", "--accept", "single"}},
		{"unix", []string{"--max-conns", "60", "--addr", "unix://" + t.TempDir() + "/s.sock"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd := limited(160, append([]string{"--addr", "tcp://127.0.0.1:0"}, c.args...)...)
			cmd.Env = environ()
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != exitUsage || strings.Count(string(out), "\n") != 1 ||
				!strings.Contains(string(out), "--max-conns") || !strings.Contains(string(out), "160") {
				t.Errorf("%v, %q; want exit code 64 and one line with --max-conns and 160", err, out)
			}
		})
	}
	t.Run("no room for any", func(t *testing.T) {
		cmd := limited(60, "--addr", "tcp://127.0.0.1:0")
		cmd.Env = environ()
		out, err := cmd.CombinedOutput()
		const want = "millrace: --max-conns \"auto\": the open-file limit of 60 leaves no room (64 kept, 0 for the backlog): raise it above 64 (ulimit -n)\n"
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != exitUsage || string(out) != want {
			t.Errorf("%v, %q; want exit code 64 and %q", err, out, want)
		}
	})
	t.Run("the default is fitted", func(t *testing.T) {
		s := launch(t, limited(160, "--addr", "tcp://127.0.0.1:0"))
		s.dial().echo("in")
		s.stop()
	})
}

// When the limit is taken away while it runs it lives on, or says that it has failed;
// it never ends as if all were well.
func TestDescriptorsTakenAwayAreNoSilentEnd(t *testing.T) {
	for _, accept := range []string{"reuseport", "single"} {
		t.Run(accept, func(t *testing.T) {
			s := serve(t, "--max-conns", "50", "--accept", accept)
			old := s.dial()
			old.echo("in")
			var low unix.Rlimit
			low.Cur, low.Max = 4, 4
			if err := unix.Prlimit(s.cmd.Process.Pid, unix.RLIMIT_NOFILE, &low, nil); err != nil {
				t.Skip("can't lower another process's limit:", err)
			}
			_, host, _ := strings.Cut(s.ready[0], "://")
			for range 5 {
				if conn, err := net.DialTimeout("tcp", host, time.Second); err == nil {
					defer conn.Close()
				}
			}
			select {
			case <-s.ended:
			case <-time.After(2 * time.Second):
				old.Write(packet{1, 1, "lives"}.bytes())
				if f, err := old.next(); err == nil && f == (packet{1, 1, "lives"}) {
					return
				}
			}
			if code := s.wait(); code != exitFailed || !strings.Contains(s.log(), "millrace: the engine failed") {
				t.Errorf("exit code %d, stderr %q; want 70 and why", code, s.log())
			}
		})
	}
}
