package admin_test

import (
	"bytes"
	"net/http"
	"strings"
	"testing"
	"time"

	"millrace/engine"
	"millrace/services/admin"
)

// Settings change while the server runs, all of a request's or none.
func TestSettingsChangeTogetherOrNotAtAll(t *testing.T) {
	r := open(t, func(c *admin.Config, e *engine.Config) { c.Write, e.MaxConns = true, 50 })
	var was, is map[string]any
	r.get("/config", &was)
	for _, bad := range []any{
		map[string]any{"idle-timeout": "1m", "no-such": 1},
		map[string]any{"idle-timeout": "1m", "max-conns": 51},
		map[string]any{"idle-timeout": "1m", "max-conns": "many"},
		map[string]any{"idle-timeout": "-1s"},
		map[string]any{"idle-timeout": "1m", "handle-dispatch": "1/1=sometimes"},
		map[string]any{"idle-timeout": []int{1}},
		map[string]any{},
		"text",
	} {
		ctx, cancel := testContext()
		err := r.client.Post(ctx, "/config", bad, nil)
		cancel()
		if no, ok := err.(*admin.StatusError); !ok || no.Status != http.StatusBadRequest || no.Text == "" || strings.Contains(no.Text, "\n") {
			t.Errorf("%s: %v, want 400 and one line", pretty(bad), err)
		}
	}
	if r.get("/config", &is); pretty(is) != pretty(was) {
		t.Errorf("refused requests have changed %s to %s", pretty(was), pretty(is))
	}
	r.post("/config?heartbeat=20s", map[string]any{"idle-timeout": "1m", "max-conns": 7, "memory-budget": "64MiB", "handle-dispatch": "1/1=ordered"}, nil)
	if a := r.srv.Adjustable(); a.IdleTimeout != time.Minute || a.MaxConns != 7 || a.MemoryBudget != 64<<20 || a.Heartbeat != 20*time.Second {
		t.Errorf("in force: %+v", a)
	}
	r.get("/config", &is)
	if is["max-conns"] != 7.0 || is["idle-timeout"] != "1m0s" {
		t.Errorf("/config says %v", is)
	}
	p := r.dial()
	for range 100 {
		p.echo("x")
	}
	if r.srv.RunsInline(1<<16 | 1) {
		t.Error("1/1 still runs on the loops")
	}
}

// Profiles and traces come where they are asked for, and only there.
func TestProfilesAndTraces(t *testing.T) {
	t.Parallel()
	off := open(t, nil)
	for _, path := range []string{"/debug/pprof", "/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/profile"} {
		if got, _ := off.status("GET", path); got != http.StatusNotFound {
			t.Errorf("%s without Pprof: got %d, want 404", path, got)
		}
	}
	r := open(t, func(c *admin.Config, _ *engine.Config) {
		c.Pprof, c.Trace, c.Timeout = true, time.Second, time.Second
	})
	for path, want := range map[string]string{
		"/debug/pprof/heap":                "\x1f\x8b",
		"/debug/pprof/heap?gc=1&debug=1":   "heap profile:",
		"/debug/pprof/goroutine?debug=2":   "goroutine ",
		"/debug/pprof/profile?seconds=1.5": "\x1f\x8b", // longer than Timeout
		"/trace":                           "go 1.",
		"/trace?seconds=0.05":              "go 1.",
	} {
		var b []byte
		began := time.Now()
		if r.get(path, &b); !bytes.HasPrefix(b, []byte(want)) {
			t.Errorf("%s: got %.40q, want %q first", path, b, want)
		}
		if took := time.Since(began); strings.Contains(path, "1.5") && took < 1500*time.Millisecond {
			t.Errorf("%s was cut off after %v", path, took)
		}
	}
	var list map[string][]string
	r.get("/debug/pprof/", &list)
	if len(list["profiles"]) < 5 {
		t.Errorf("profiles %v", list)
	}
	for path, want := range map[string]int{
		"/debug/pprof/cmdline": 404, "/debug/pprof/nothing": 404, "/debug/pprofx": 404, "/debug/pprof/heap?debug=9": 400,
		"/debug/pprof/profile?seconds=0": 400, "/debug/pprof/profile?seconds=61": 400, "/trace?seconds=x": 400,
	} {
		if got, _ := r.status("GET", path); got != want {
			t.Errorf("%s: got %d, want %d", path, got, want)
		}
	}
	var b []byte
	if off.get("/trace?seconds=0.05", &b); !bytes.HasPrefix(b, []byte("go 1.")) {
		t.Errorf("/trace where nothing is kept: got %.40q", b)
	}
}
