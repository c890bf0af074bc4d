package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"millrace/dbasync/pgembed"
	"millrace/engine"
	"millrace/services"
	"millrace/services/client"
	"millrace/services/events"
)

const patience = time.Minute

// A process that is killed in the middle of a job is this test's program, started again with its work
// never ending.
func TestMain(m *testing.M) {
	if url := os.Getenv("JOBS_TEST_DB"); url != "" {
		stuck(url)
		return
	}
	os.Exit(m.Run())
}

func stuck(url string) {
	m, err := serve(context.Background(), "tcp://127.0.0.1:0", url, short, &jobs{"stuck", func(ctx context.Context, text string) (string, error) {
		fmt.Println("began", text)
		select {}
	}})
	if err == nil {
		err = m.Start(context.Background())
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("ready", m.TCP().Addrs()[0])
	select {}
}

// short has the jobs of a process that is no more taken over within seconds.
var short = events.Config{Lease: 2 * time.Second, Poll: 100 * time.Millisecond, Retry: 50 * time.Millisecond}

func dial(t *testing.T, addr string) *client.Client {
	t.Helper()
	c, err := client.Dial(t.Context(), client.Config{Addrs: []string{addr}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func add(t *testing.T, c *client.Client, key string, seconds float64, text string) bool {
	t.Helper()
	res, err := client.Call[job, added](t.Context(), c, services.Handle(1, subAdd), job{key, seconds, text})
	if err != nil {
		t.Fatalf("%s: %v", key, err)
	}
	return res.Added
}

func await(t *testing.T, c *client.Client, key string) result {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		res, err := client.Call[asked, result](t.Context(), c, services.Handle(1, subResult), asked{key})
		var e *client.Error
		switch {
		case err == nil:
			return res
		case !errors.As(err, &e) || engine.ErrorCode(e.Code) != engine.CodeNotFound:
			t.Fatalf("%s: %v", key, err)
		case time.Now().After(end):
			t.Fatalf("%s is not done within %v", key, patience)
		}
	}
}

// Jobs outlive a process that is killed: what it had begun and what it had not are done by another.
func TestJobsOutliveTheirProcess(t *testing.T) {
	url := pgembed.ForTest(t, pgembed.Config{}).URL()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "JOBS_TEST_DB="+url)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	lines := bufio.NewScanner(out)
	next := func(want string) string {
		for lines.Scan() {
			if rest, ok := strings.CutPrefix(lines.Text(), want+" "); ok {
				return rest
			}
			t.Log(lines.Text())
		}
		t.Fatalf("the process ended without %q", want)
		return ""
	}
	c := dial(t, next("ready"))
	if !add(t, c, "later", 1, "later") || !add(t, c, "now", 0, "now") {
		t.Fatal("a new job is not added")
	}
	if add(t, c, "later", 1, "again") {
		t.Error("a job of the same key was added beside the one that waits")
	}
	next("began") // it will never end
	c.Close()
	cmd.Process.Kill()

	var failed atomic.Bool
	m, err := serve(t.Context(), "tcp://127.0.0.1:0", url, short, &jobs{"b", func(ctx context.Context, text string) (string, error) {
		if failed.CompareAndSwap(false, true) {
			return "", errors.New("the first time nothing works")
		}
		return shout(ctx, text)
	}})
	if err == nil {
		err = m.Start(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	defer m.Stop(context.Background())
	c = dial(t, m.TCP().URLs()[0])
	for key, want := range map[string]result{"now": {"NOW", "b"}, "later": {"LATER", "b"}} {
		if got := await(t, c, key); got != want {
			t.Errorf("%s: got %+v, want %+v", key, got, want)
		}
	}
	// A job that runs a second time, as its first process could not tell the database of its end.
	ctx := m.Controller().Context(nil)
	if _, err := services.Inline[job, services.None](ctx, services.Handle(1, subRun), job{Key: "now", Text: "twice"}); err != nil {
		t.Errorf("a second run: %v", err)
	}
	if got := await(t, c, "now"); got.Result != "NOW" {
		t.Errorf("a second run has changed the result to %q", got.Result)
	}
	if !failed.Load() {
		t.Error("no job failed")
	}
}
