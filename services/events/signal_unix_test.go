//go:build unix

package events_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"millrace/dbasync"
	"millrace/dbasync/pgembed"

	"millrace/internal/proctest"
)

// startChild starts a process that runs events, and returns when it does.
func startChild(t *testing.T, url string) *os.Process {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), "MILLRACE_LEASE_CHILD="+url)
	child.Stderr = os.Stderr
	in, err := child.StdinPipe()
	must(t, err)
	out, err := child.StdoutPipe()
	must(t, err)
	must(t, child.Start())
	t.Cleanup(func() {
		_ = child.Process.Kill() // ends one that is stopped, too
		_ = in.Close()
		_ = child.Wait()
	})
	if line, _ := bufio.NewReader(out).ReadString('\n'); strings.TrimSpace(line) != "ready" {
		t.Fatalf("child: %q", line)
	}
	return child.Process
}

// The rows tell: while a process renews its lease no other begins its event, not even once
// it was stopped or killed, until the lease is over; and the end of one that lost its
// lease counts for nothing.
func TestLeasesOfProcessesThatAreStoppedAndKilled(t *testing.T) {
	pg := pgembed.ForTest(t, pgembed.Config{})
	db, err := dbasync.New(dbasync.Config{URL: pg.URL(), Lanes: 1})
	must(t, err)
	must(t, db.Start(background))
	t.Cleanup(func() { _ = db.Stop(background) })
	sql := func(format string, args ...any) string { return ask(t, db, fmt.Sprintf(format, args...)) }
	sql("create table seen (n serial, key text, pid int, what text, at timestamptz default clock_timestamp())")
	sql("create table may (key text, pid int)")
	a := startChild(t, pg.URL())

	begins := func(key string) string {
		return sql("select coalesce(string_agg(pid::text, ' ' order by n), '') from seen where key = '%s' and what = 'begins'", key)
	}
	put := func(key string) {
		sql(`insert into millrace_events (key, handle, body, due) values ('%s', %d, '{"id":1,"late_ms":0}', clock_timestamp())`, key, hPush)
	}
	// renewed waits until the first lease would long be over.
	renewed := func(key string) {
		eventually(t, key+" has begun", func() bool { return begins(key) != "" })
		eventually(t, key+" has run for longer than a lease", func() bool {
			return sql("select (clock_timestamp() > min(at) + %d * interval '1.4 ms')::text from seen where key = '%s'", lease.Milliseconds(), key) == "true"
		})
	}
	// taken waits for the second copy and checks that the lease, until when it was
	// renewed by the first, was over.
	taken := func(key string, first, second *os.Process) {
		t.Helper()
		until := sql("select claimed::text from millrace_events where key = '%s'", key)
		if got := begins(key); got != fmt.Sprint(first.Pid) {
			t.Errorf("%s was begun by %s while its lease was renewed by %d", key, got, first.Pid)
		}
		want := fmt.Sprint(first.Pid, " ", second.Pid)
		eventually(t, key+" was begun by the other", func() bool { return begins(key) == want })
		if sql("select (max(at) >= '%s')::text from seen where key = '%s' and what = 'begins'", until, key) != "true" {
			t.Errorf("%s was begun again before the lease was over", key)
		}
	}
	release := func(key string, p *os.Process) {
		sql("insert into may values ('%s', %d)", key, p.Pid)
	}

	put("stopped")
	eventually(t, "the first has begun it", func() bool { return begins("stopped") != "" })
	b := startChild(t, pg.URL())
	renewed("stopped")
	proctest.Suspend(t, a)
	taken("stopped", a, b)
	must(t, a.Signal(syscall.SIGCONT))
	release("stopped", a)
	told := func(p *os.Process) string {
		return sql("select coalesce(min(what), '') from seen where pid = %d and what like 'told %%'", p.Pid)
	}
	eventually(t, "the stopped one has told of its end", func() bool { return told(a) != "" })
	if told(a) != "told 1, lost 1" {
		t.Errorf("the stopped one: %s", told(a))
	}
	if got := sql("select coalesce(string_agg(attempts::text, ','), 'no row') from millrace_events where key = 'stopped'"); got != "2" {
		t.Errorf("after the end of the one that lost its lease: attempts %s, want the second copy's row", got)
	}
	release("stopped", b)
	eventually(t, "the row has gone", func() bool { return sql("select count(*)::text from millrace_events") == "0" })
	eventually(t, "the second has told of its end", func() bool { return told(b) != "" })
	if told(b) != "told 1, lost 0" || begins("stopped") != fmt.Sprint(a.Pid, " ", b.Pid) {
		t.Errorf("the second: %s; begun by %s", told(b), begins("stopped"))
	}

	put("killed")
	renewed("killed")
	first, second := a, b
	if begins("killed") == fmt.Sprint(b.Pid) {
		first, second = b, a
	}
	must(t, first.Kill())
	taken("killed", first, second)
	release("killed", second)
	eventually(t, "the row has gone", func() bool { return sql("select count(*)::text from millrace_events") == "0" })
	if got := begins("killed"); got != fmt.Sprint(first.Pid, " ", second.Pid) {
		t.Errorf("begun by %s", got)
	}
}
