package admin_test

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"millrace/engine"
	"millrace/services/admin"
	"millrace/services/admin/live"
)

// live asks for /live, anew each time, until is holds.
func (r *rig) live(query, what string, is func(v *admin.Live) bool) (v admin.Live) {
	r.Helper()
	eventually(r, what, func() bool {
		v = admin.Live{}
		r.get("/live?"+query, &v)
		return is(&v)
	})
	return v
}

func has(v *admin.Live, kind, what string) bool {
	return slices.ContainsFunc(v.Findings, func(f live.Finding) bool { return f.Kind == kind && f.What == what })
}

func TestLiveSaysWhatIsWrong(t *testing.T) {
	down := fmt.Errorf("not there")
	r := open(t, func(c *admin.Config, e *engine.Config) {
		c.Node, c.Write = "north", true
		e.MaxConns = 2
		c.Checks = []admin.Check{{Name: "database", Ready: func() error { return down }}}
		c.DB = dbFigures
	})
	a, b := r.dial(), r.dial()
	a.echo("hello")
	b.echo("hello")
	r.dial().wantError(engine.CodeLimit, 0, "too many connections")
	a.send(1, 3, "is never answered")
	v := r.live("", "what is wrong", func(v *admin.Live) bool {
		return has(v, live.Refused, "max_conns") && has(v, live.Full, "max-conns") && has(v, live.Down, "database")
	})
	if v.Node != "north" || !v.Write || v.Ready || len(v.Loops) != 2 || v.Total != 2 || v.Started == 0 || !slices.Equal(v.Addrs, r.srv.URLs()) {
		t.Errorf("%s", pretty(v))
	}
	if v.Backs[0].Name != "timers" || v.Backs[1].Name != "database" || v.Backs[1].Down != "not there" {
		t.Errorf("behind the handlers: %s", pretty(v.Backs))
	}
	v = r.live("", "the requests that were made", func(v *admin.Live) bool { return len(v.Handles) == 2 })
	if h := v.Handles; h[0].Total+h[1].Total != 3 {
		t.Errorf("handles: %s", pretty(h))
	}
	v = r.live("", "the log", func(v *admin.Live) bool { return len(v.Events) >= 3 })
	next := r.live(fmt.Sprintf("since=%d&events=%d", v.Seq, v.EventSeq), "a second later", func(n *admin.Live) bool { return n.Seq > v.Seq })
	if len(next.History) != int(next.Seq-v.Seq) || next.History[0].Seq != v.Seq+1 || len(next.Events) != 0 {
		t.Errorf("after %d there is %s", v.Seq, pretty(next.History))
	}
}

// An operator's change is shown at once, not only with the next sample, which is up to a second later.
func TestLiveShowsAChangeAtOnce(t *testing.T) {
	r := open(t, func(c *admin.Config, e *engine.Config) { c.Write = true })
	seen := func() (v admin.Live) {
		r.get("/live", &v)
		return v
	}
	for range 5 { // a sample in between could show one change, but not all
		r.post("/drain", nil, nil)
		if v := seen(); !v.Draining || v.Ready || !has(&v, live.Down, "draining") {
			t.Fatalf("after drain: %s", pretty(v))
		}
		r.post("/undrain", nil, nil)
		if v := seen(); v.Draining || !v.Ready || has(&v, live.Down, "draining") {
			t.Fatalf("after undrain: %s", pretty(v))
		}
	}
	if v := seen(); len(v.History) > 20 {
		t.Errorf("the history has %d points, want one a second", len(v.History))
	}
}

func TestLiveTellsOfSessions(t *testing.T) {
	r := open(t, func(c *admin.Config, e *engine.Config) { c.Write, e.MaxConnsPerIP = true, 5 })
	var all []*peer
	for range 5 {
		all = append(all, r.dial())
		all[len(all)-1].echo("hello")
	}
	all[3].echo(strings.Repeat("x", 5000))
	v := r.live("sort=bytes&limit=2", "the busiest first", func(v *admin.Live) bool { return v.Total == 5 })
	if len(v.Sessions) != 2 || v.Found != 5 || v.Sessions[0].Addr != all[3].LocalAddr().String() || v.Sessions[0].BytesIn < 5000 {
		t.Errorf("%s", pretty(v.Sessions))
	}
	id := fmt.Sprintf("%d.%d", v.Sessions[0].Index, v.Sessions[0].Round)
	v = r.live("open="+id+"&q="+all[1].LocalAddr().String(), "one in full, another found", func(*admin.Live) bool { return true })
	if v.One == nil || v.One.Addr != all[3].LocalAddr().String() || v.One.State == nil {
		t.Errorf("%s is %s", id, pretty(v.One))
	}
	if v.Found != 1 || len(v.Sessions) != 1 || v.Sessions[0].Addr != all[1].LocalAddr().String() {
		t.Errorf("found %s", pretty(v.Sessions))
	}
	r.live("", "that an address came near its limit", func(v *admin.Live) bool {
		return slices.ContainsFunc(v.Limits, func(l live.Use) bool {
			return l.Flag == "max-conns-per-ip" && l.Max == 5 && l.Near > 0 && l.Last > 0 && strings.Contains(l.Who, "127.0.0.1:")
		})
	})
	r.post("/sessions/"+id+"/kick", map[string]string{"reason": "too loud"}, nil)
	v = r.live("sort=ended&open="+id, "that it ended", func(v *admin.Live) bool { return len(v.Sessions) == 1 })
	if v.One != nil || v.Sessions[0].Reason != "kicked" {
		t.Errorf("ended: %s, open: %s", pretty(v.Sessions), pretty(v.One))
	}
	if e := v.Events; len(e) == 0 || e[len(e)-1].Kind != "kick" || !strings.Contains(e[len(e)-1].Text, "too loud") {
		t.Errorf("the log has %s", pretty(e))
	}
}

// Sessions are looked at each second only while somebody watches.
func TestSessionsLimitsAreThereForWatchers(t *testing.T) {
	var samples atomic.Int32 // each asks what the server needs
	r := open(t, func(c *admin.Config, _ *engine.Config) {
		c.Checks = []admin.Check{{Name: "counted", Ready: func() error { samples.Add(1); return nil }}}
	})
	p := r.dial()
	p.send(1, 3, strings.Repeat("x", 30_000)) // is never answered, and waits for nobody
	find := func(v *admin.Live) *live.Use {
		for i := range v.Limits {
			if v.Limits[i].Flag == "max-outbound" {
				return &v.Limits[i]
			}
		}
		return nil
	}
	eventually(t, "some samples", func() bool { return samples.Load() >= 3 })
	var first admin.Live
	r.get("/live", &first)
	if find(&first) != nil {
		t.Errorf("nobody watched, and sessions were looked at: %s", pretty(first.Limits))
	}
	r.live("", "limits of sessions", func(v *admin.Live) bool { return find(v) != nil })
}

func TestLiveRefusesWhatItDoesNotKnow(t *testing.T) {
	r := open(t, nil)
	for _, query := range []string{"sort=size", "limit=0", "limit=many", "since=-1", "events=1.5"} {
		if code, text := r.status("GET", "/live?"+query); code != http.StatusBadRequest || !strings.Contains(text, strings.Split(query, "=")[0]) {
			t.Errorf("%s: %d %q, want 400 that names it", query, code, text)
		}
	}
	if code, _ := r.status("POST", "/live"); code != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", code)
	}
}

func TestThePageHasNothingOfTheServer(t *testing.T) {
	const token = "the-token"
	plain, guarded := open(t, nil), open(t, func(c *admin.Config, _ *engine.Config) { c.Token = token })
	read := func(r *rig, method, path, header string) (*http.Response, string) {
		res := r.raw(method + " " + path + " HTTP/1.1\r\nHost: localhost:" + r.port() + "\r\n" + header + "\r\n")
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res, string(b)
	}
	res, page := read(plain, "GET", "/", "")
	if res.StatusCode != 200 || !strings.HasPrefix(page, "<!doctype html>") || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/html") {
		t.Fatalf("GET /: %d %v", res.StatusCode, res.Header)
	}
	policy := res.Header.Get("Content-Security-Policy")
	if !strings.HasPrefix(policy, "default-src 'none'; script-src 'sha256-") || strings.Contains(policy, "unsafe") || !strings.Contains(policy, "frame-ancestors 'none'") {
		t.Errorf("the policy is %q", policy)
	}
	res, asked := read(guarded, "GET", "/", "")
	if res.StatusCode != 401 || asked != page || res.Header.Get("WWW-Authenticate") != "Bearer" || res.Header.Get("Content-Security-Policy") != policy {
		t.Errorf("without a token: %d %v, and the page: %v", res.StatusCode, res.Header, asked == page)
	}
	if res, allowed := read(guarded, "GET", "/", "Authorization: Bearer "+token+"\r\n"); res.StatusCode != 200 || allowed != page {
		t.Errorf("with the token: %d", res.StatusCode)
	}
	for _, path := range []string{"/live", "/index.html", "//"} {
		if res, text := read(guarded, "GET", path, ""); res.StatusCode != 401 || strings.Contains(text, "<") {
			t.Errorf("%s without a token: %d %q", path, res.StatusCode, text)
		}
	}
	if res, text := read(guarded, "POST", "/", ""); res.StatusCode != 401 || strings.Contains(text, "<") {
		t.Errorf("POST / without a token: %d %q", res.StatusCode, text)
	}
	if res, text := read(plain, "HEAD", "/", ""); res.StatusCode != 200 || text != "" || res.ContentLength != int64(len(page)) {
		t.Errorf("HEAD /: %d, length %d, %q", res.StatusCode, res.ContentLength, text)
	}
}
