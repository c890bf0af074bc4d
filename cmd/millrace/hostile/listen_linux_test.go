package hostile

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// answers says whether someone serves at an address.
func answers(network, address string) error {
	conn, err := net.DialTimeout(network, address, time.Minute)
	if err != nil {
		return err
	}
	defer conn.Close()
	c := &client{Conn: conn}
	c.r = newReader(conn)
	if f, err := c.call(time.Minute, 1, 1, "x"); err != nil || f.body != "x" {
		return fmt.Errorf("echo: got %v, %v", f, err)
	}
	return nil
}

// Of two that start at once on one address, one serves and the other exits 69. Neither
// gets half of the clients, and neither takes the other's socket away.
func TestOfTwoStartedAtOnceOneServes(t *testing.T) {
	t.Parallel()
	tries := 30
	if *long {
		tries = 60
	}
	dir := t.TempDir()
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			both, none, other, unserved := 0, 0, 0, 0
			for i := range tries {
				address := fmt.Sprintf("127.0.0.1:%d", freePort(t))
				if network == "unix" {
					address = filepath.Join(dir, fmt.Sprintf("%d.sock", i))
				}
				switch verdict := race(t, network, address); {
				case verdict == "both":
					both++
				case verdict == "none":
					none++
				case strings.HasPrefix(verdict, "exit"):
					other++
					t.Log(verdict)
				case verdict != "":
					unserved++
					t.Log(verdict)
				}
			}
			t.Logf("%d tries: both live %d times, neither %d, the loser's exit code is not 69 %d, the survivor isn't reached %d",
				tries, both, none, other, unserved)
			if both+none+other+unserved > 0 {
				t.Errorf("%d of %d tries went wrong", both+none+other+unserved, tries)
			}
		})
	}
}

// race starts two servers on one address and says what went wrong, if anything.
func race(t *testing.T, network, address string) (verdict string) {
	arg := "--addr=" + network + "://" + address
	a, b := launch(t, arg, "--drain-timeout=1s"), launch(t, arg, "--drain-timeout=1s")
	a.mute, b.mute = true, true
	defer func() {
		for _, s := range []*server{a, b} {
			s.cmd.Process.Kill()
			<-s.ended
		}
	}()
	up := func(s *server) bool {
		select {
		case <-s.ready:
			return s.alive()
		default:
			return false
		}
	}
	// Each becomes ready or ends.
	if !poll(time.Minute, func() bool { return (up(a) || !a.alive()) && (up(b) || !b.alive()) }) {
		return "neither ready nor ended after a minute"
	}
	switch {
	case a.alive() && b.alive():
		return "both"
	case !a.alive() && !b.alive():
		return "none"
	}
	lives, lost := a, b
	if b.alive() {
		lives, lost = b, a
	}
	if lost.code != 69 {
		return fmt.Sprintf("exit code %d: %s", lost.code, tail(lost.log.String(), 200))
	}
	if err := answers(network, address); err != nil {
		return fmt.Sprintf("the survivor: %v", err)
	}
	if !lives.alive() {
		return "the survivor ended"
	}
	return ""
}

// A server that serves keeps its unix socket: a second one exits 69, and its own stop
// removes only what it made itself.
func TestUnixSocketBelongsToWhoServesIt(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a.sock")
	arg := "--addr=unix://" + path
	first := serve(t, arg, "--drain-timeout=1s")
	second := launch(t, arg)
	if code := second.exit(10 * time.Second); code != 69 {
		t.Errorf("the second one: got exit code %d, want 69", code)
	}
	if n := strings.Count(strings.TrimSpace(second.log.String()), "\n"); n > 0 {
		t.Errorf("the second one says more than a line:\n%s", second.log.String())
	}
	if err := answers("unix", path); err != nil {
		t.Errorf("the first one: %v", err)
	}

	// Another program takes the path over while the first one lives.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	third := serve(t, arg, "--drain-timeout=1s")
	first.term()
	if code := first.exit(5 * time.Second); code != 0 {
		t.Errorf("the first one: got exit code %d, want 0", code)
	}
	if err := answers("unix", path); err != nil {
		t.Errorf("after the first one's end, the one that took its path over: %v", err)
	}
	third.term()
	if code := third.exit(5 * time.Second); code != 0 {
		t.Errorf("the third one: got exit code %d, want 0", code)
	}
	if _, err := os.Lstat(path); err == nil {
		t.Errorf("%s is left after its server's end", path)
	}

	// What a killed server left is no one's.
	killed := serve(t, arg)
	killed.cmd.Process.Kill()
	<-killed.ended
	serve(t, arg)
	if err := answers("unix", path); err != nil {
		t.Errorf("after a server that was killed: %v", err)
	}
}

// --unix-mode is the socket's mode from its first moment.
func TestUnixModeIsTheSocketsMode(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"0600", "0660"} {
		path := filepath.Join(t.TempDir(), "m.sock")
		serve(t, "--addr=unix://"+path, "--unix-mode="+mode)
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%04o", info.Mode().Perm()); got != mode {
			t.Errorf("got mode %s, want %s", got, mode)
		}
	}
}

// An address means what it says: a family, or one of the wildcards.
func TestAddressesOfOneFamilyTakeOnlyThatFamily(t *testing.T) {
	t.Parallel()
	if l, err := net.Listen("tcp6", "[::1]:0"); err != nil {
		t.Skipf("no IPv6 here: %v", err)
	} else {
		l.Close()
	}
	for _, c := range []struct {
		addr, printed string // %d is the port
		four, six     bool   // who is served
	}{
		{"tcp4://:%d", "", true, false},
		{"tcp6://:%d", "", false, true},
		{"tcp://0.0.0.0:%d", "tcp://0.0.0.0:%d", true, false},
		{"tcp6://[::]:%d", "", false, true},
	} {
		for _, accept := range []string{"reuseport", "single"} {
			port := freePort(t)
			s := serve(t, "--addr="+fmt.Sprintf(c.addr, port), "--accept="+accept)
			four, six := answers("tcp4", fmt.Sprintf("127.0.0.1:%d", port)), answers("tcp6", fmt.Sprintf("[::1]:%d", port))
			t.Logf("%s --accept=%s prints %s; IPv4: %v; IPv6: %v", c.addr, accept, s.addrs, four, six)
			if (four == nil) != c.four || (six == nil) != c.six {
				t.Errorf("%s --accept=%s: IPv4 served: %v, want %v; IPv6 served: %v, want %v",
					c.addr, accept, four == nil, c.four, six == nil, c.six)
			}
			if want := fmt.Sprintf(c.printed, port); c.printed != "" && s.addrs[0] != want {
				t.Errorf("%s --accept=%s prints %s, want %s", c.addr, accept, s.addrs[0], want)
			}
			s.cmd.Process.Kill()
			<-s.ended
		}
	}
}

// An address is in use only if someone has that address.
func TestWildcardOfOneFamilyIsFreeWhileTheOtherIsTaken(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		t.Skipf("no IPv6 here: %v", err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	for _, addr := range []string{"tcp://0.0.0.0:%d", "tcp4://:%d"} {
		s := launch(t, "--addr="+fmt.Sprintf(addr, port))
		select {
		case <-s.ready:
		case <-s.ended:
			t.Errorf("%s while [::1] has the port: exit code %d: %s", addr, s.code, s.log.String())
		case <-time.After(time.Minute):
			t.Errorf("%s: not ready after a minute", addr)
		}
		s.cmd.Process.Kill()
		<-s.ended
	}
}

// Two addresses of one server that overlap are refused in a line that names both and
// nothing of the system's.
func TestOverlappingAddressesAreNamed(t *testing.T) {
	t.Parallel()
	for _, accept := range []string{"reuseport", "single"} {
		port := freePort(t)
		a, b := fmt.Sprintf("tcp://127.0.0.1:%d", port), fmt.Sprintf("tcp4://0.0.0.0:%d", port)
		s := launch(t, "--addr="+a, "--addr="+b, "--accept="+accept)
		select {
		case <-s.ready:
			t.Logf("--accept=%s serves both", accept)
			continue
		case <-s.ended:
		case <-time.After(time.Minute):
			t.Fatalf("--accept=%s: neither ready nor ended after a minute", accept)
		}
		text := s.log.String()
		t.Logf("--accept=%s: exit code %d: %s", accept, s.code, strings.TrimSpace(text))
		if !strings.Contains(text, a) || !strings.Contains(text, b) || strings.Contains(text, "descriptor") {
			t.Errorf("--accept=%s: got %q, want a line that names %s and %s", accept, text, a, b)
		}
	}
}
