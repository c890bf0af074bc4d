package admin_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"millrace/engine"
	"millrace/services/admin"
)

// The fields that clients rely on are there, and say what the session did.
func TestSessionsTellWhatTheyDid(t *testing.T) {
	r := open(t, func(c *admin.Config, _ *engine.Config) {
		c.Events = func(engine.ID) any { return []string{"an event"} }
	})
	p := r.dial()
	p.echo("hello")
	p.send(0, 1, "")
	p.next()
	var list struct {
		Sessions []map[string]any
		Total    int
	}
	eventually(t, "the counts", func() bool {
		r.get("/sessions", &list)
		return len(list.Sessions) == 1 && list.Sessions[0]["bytes_out"] == 21.0
	})
	s := list.Sessions[0]
	for name, want := range map[string]any{
		"index": 0.0, "round": 1.0, "addr": p.LocalAddr().String(), "transport": "tcp", "frames_in": 2.0, "frames_out": 2.0,
		"bytes_in": 21.0, "bytes_out": 21.0, "unsent": 0.0, "pending": 0.0,
	} {
		if s[name] != want {
			t.Errorf("%s is %v, want %v", name, s[name], want)
		}
	}
	if id, _ := s["id"].(string); !strings.HasSuffix(id, "0.1") || len(id) < 10 {
		t.Errorf("id %v is not unique among processes", s["id"])
	}
	at, err := time.Parse(time.RFC3339Nano, s["connected_at"].(string))
	if err != nil || time.Since(at) > patience || time.Since(at) < 0 {
		t.Errorf("connected_at %v: %v", s["connected_at"], err)
	}
	var one map[string]any
	r.get("/sessions/0.1", &one)
	for name, v := range s {
		if want, _ := json.Marshal(v); name != "pending" {
			if got, _ := json.Marshal(one[name]); string(got) != string(want) {
				t.Errorf("/sessions/0.1 says %s is %s, /sessions %s", name, got, want)
			}
		}
	}
	if ev, _ := json.Marshal(one["events"]); string(ev) != `["an event"]` {
		t.Errorf("events %s", ev)
	}
	if st, _ := one["state"].(map[string]any); st["life"] != "open" || st["strand"] != "idle" {
		t.Errorf("state %v", one["state"])
	}
	for _, id := range []string{"0.2", "1.1", "0", "0.1.1", "-0.1", "x", "4294967296.1", "0.18446744073709551617"} {
		if got, text := r.status("GET", "/sessions/"+id); got != http.StatusNotFound || !strings.Contains(text, "no session "+strconv.Quote(id)+"; /sessions lists them as INDEX.ROUND") {
			t.Errorf("/sessions/%s: got %d %q, want 404 and what a session is called", id, got, text)
		}
	}
}

// The list is bounded, and comes in the order that is asked for.
func TestSessionsAreListedInOrder(t *testing.T) {
	r := open(t, func(c *admin.Config, _ *engine.Config) { c.MaxList = 4 })
	var peers []*peer
	for i := range 6 {
		p := r.dial()
		for range i + 1 {
			p.echo(strings.Repeat("x", 100))
		}
		peers = append(peers, p)
	}
	var list admin.Sessions
	eventually(t, "the counts", func() bool {
		r.get("/sessions?sort=frames&limit=3", &list)
		return len(list.Sessions) == 3 && list.Sessions[0].FramesIn == 6
	})
	for i, s := range list.Sessions {
		if s.FramesIn != uint64(6-i) || s.Addr != peers[5-i].LocalAddr().String() {
			t.Errorf("place %d: %s", i, pretty(s))
		}
	}
	if list.Total != 6 {
		t.Errorf("total %d, want 6", list.Total)
	}
	r.get("/sessions?limit=99", &list)
	if len(list.Sessions) != 4 || list.Total != 6 {
		t.Errorf("%d of %d listed, want MaxList 4 of 6", len(list.Sessions), list.Total)
	}
	r.get("/sessions?q="+peers[2].LocalAddr().String(), &list)
	if len(list.Sessions) != 1 || list.Total != 1 || list.Sessions[0].FramesIn != 3 {
		t.Errorf("search: %s", pretty(list))
	}
	for _, q := range []string{"sort=name", "limit=0", "limit=-1", "limit=x", "limit="} {
		if got, text := r.status("GET", "/sessions?"+q); got != http.StatusBadRequest || text == "" {
			t.Errorf("?%s: got %d %q, want 400", q, got, text)
		}
	}
}

// A kicked client is told why and sees the end; who has ended is remembered, as far as there
// is room.
func TestKick(t *testing.T) {
	t.Parallel()
	r := open(t, func(c *admin.Config, _ *engine.Config) { c.Write, c.MaxClosed = true, 3 })
	for i, tc := range []struct {
		query string
		body  any
		want  string
	}{
		{"", nil, "kicked"},
		{"?reason=too+loud", nil, "too loud"},
		{"", map[string]string{"reason": "<b>ü</b>"}, "<b>ü</b>"},
		{"", map[string]string{}, "kicked"},
	} {
		p := r.dial()
		p.echo("in")
		var list admin.Sessions
		r.get("/sessions", &list)
		if len(list.Sessions) != 1 {
			t.Fatalf("round %d: %s", i, pretty(list))
		}
		id := (engine.ID(list.Sessions[0].Round)<<32 | engine.ID(list.Sessions[0].Index)).String()
		for _, bad := range []string{"?reason=" + strings.Repeat("x", 257), "?reason=%ff"} {
			if got, _ := r.status("POST", "/sessions/"+id+"/kick"+bad); got != http.StatusBadRequest {
				t.Errorf("%.20s: got %d, want 400", bad, got)
			}
		}
		r.post("/sessions/"+id+"/kick"+tc.query, tc.body, nil)
		p.wantError(engine.CodeUnauthorised, 0, tc.want)
		p.wantEnd()
		p.Close()
		if got, _ := r.status("POST", "/sessions/"+id+"/kick"); got != http.StatusNotFound {
			t.Errorf("a second kick: got %d, want 404", got)
		}
		eventually(t, "its end", func() bool { return r.srv.Stats().Conns == 0 })
	}
	var closed admin.Sessions
	eventually(t, "the list of those that ended", func() bool {
		r.get("/sessions?closed=1", &closed)
		return closed.Total == 4
	})
	if len(closed.Sessions) != 3 {
		t.Fatalf("%d remembered, want 3", len(closed.Sessions))
	}
	for i, s := range closed.Sessions {
		if s.Reason != "kicked" || s.ClosedAt == nil || s.FramesIn != 1 || i > 0 && s.ClosedAt.After(*closed.Sessions[i-1].ClosedAt) {
			t.Errorf("place %d: %s", i, pretty(s))
		}
	}
	r.get("/sessions?closed=1&limit=1", &closed)
	if len(closed.Sessions) != 1 {
		t.Errorf("%d listed, want 1", len(closed.Sessions))
	}
}

// A drain makes the process not ready and says so, tells its sessions at the rate asked for,
// and can be taken back.
func TestDrainAndUndrain(t *testing.T) {
	t.Parallel()
	var away atomic.Bool // the door looks by itself too
	r := open(t, func(c *admin.Config, e *engine.Config) {
		c.Write = true
		c.Checks = []admin.Check{{Name: "database", Ready: func() error {
			if away.Load() {
				return engine.ErrNotRunning
			}
			return nil
		}}}
	})
	ready := func() (reasons []string) {
		var out admin.Readiness
		res := r.raw("GET /readyz HTTP/1.1\r\nHost: localhost:" + r.port() + "\r\n\r\n")
		if err := json.NewDecoder(res.Body).Decode(&out); err != nil || out.Ready != (res.StatusCode == 200) || out.Ready != (len(out.Reasons) == 0) ||
			res.StatusCode != 200 && res.StatusCode != 503 {
			t.Errorf("/readyz: %d %+v %v", res.StatusCode, out, err)
		}
		return out.Reasons
	}
	if why := ready(); len(why) != 0 {
		t.Fatalf("not ready: %q", why)
	}
	p := r.dial()
	p.echo("in")
	for _, bad := range []string{"rate=0", "rate=x", "rate=-1", "rate=16777217"} {
		if got, _ := r.status("POST", "/drain?"+bad); got != http.StatusBadRequest {
			t.Errorf("?%s: got %d, want 400", bad, got)
		}
	}
	var said map[string]any
	r.post("/drain?rate=1000", nil, &said)
	if said["draining"] != true || said["begun"] != true {
		t.Errorf("the first drain: %v", said)
	}
	r.post("/drain?rate=1", nil, &said)
	if said["draining"] != true || said["begun"] != false {
		t.Errorf("the second drain: %v", said)
	}
	if x := p.next(); x.Main != 0 || x.Sub != engine.SubGoAway {
		t.Errorf("got %v, want GOAWAY", x)
	}
	p.wantEnd()
	away.Store(true)
	if why := ready(); !slices.Equal(why, []string{"draining", "database: " + engine.ErrNotRunning.Error()}) {
		t.Errorf("reasons %q", why)
	}
	if got, text := r.status("GET", "/healthz"); got != 200 {
		t.Errorf("/healthz of a draining server: %d %s", got, text)
	}
	away.Store(false)
	r.post("/undrain", nil, nil)
	r.post("/undrain", nil, nil)
	if why := ready(); len(why) != 0 {
		t.Errorf("not ready after undrain: %q", why)
	}
	r.dial().echo("in again")
}
