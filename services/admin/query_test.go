package admin_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"millrace/engine"
	"millrace/services/admin"
)

// What an operator has misspelt or given twice is an error that names it, and changes nothing.
func TestAParameterThatIsNotTakenIsRefused(t *testing.T) {
	r := open(t, func(c *admin.Config, _ *engine.Config) { c.Write, c.Pprof = true, true })
	p := r.dial()
	p.echo("in")
	for _, tc := range []struct {
		line, body string
		want       string // in the answer, with 400
	}{
		{"GET /sessions?lmit=1", "", "lmit: no such parameter; these are taken here: closed, limit, q, sort"},
		{"GET /sessions?limit=1&limit=2", "", "limit: given twice"},
		{"GET /sessions?limit=%zz", "", "the query: invalid URL escape"},
		{"GET /sessions?limit=1;sort=age", "", "the query: invalid semicolon separator"},
		{"GET /sessions?closed=no", "", `closed=\"no\": must be 0 or 1`},
		{"GET /live?limt=1", "", "limt: no such parameter"},
		{"GET /costs?second=1", "", "second: no such parameter"},
		{"GET /trace?second=1", "", "second: no such parameter"},
		{"GET /debug/pprof/heap?seconds=1", "", "seconds: no such parameter; these are taken here: debug, gc"},
		{"GET /debug/pprof/profile?second=1", "", "second: no such parameter"},
		{"GET /debug/pprof/heap?gc=yes", "", `gc=\"yes\": must be 0 or 1`},
		{"POST /drain?rat=5", "", "rat: no such parameter; these are taken here: rate"},
		{"POST /drain?rate=5&rate=6", "", "rate: given twice"},
		{"POST /drain", `{"rat":5}`, `unknown field \"rat\"`},
		{"POST /drain", `{"rate":0}`, "rate=0: must be a whole number, 1 or more"},
		{"POST /drain?rate=5", `{"rate":6}`, "rate: given twice"},
		{"POST /drain", `{"rate":5} {}`, "more than one value"},
		{"POST /undrain?rate=5", "", "rate: no parameters are taken here"},
		{"POST /undrain", `{"rate":5}`, `unknown field \"rate\"`},
		{"POST /sessions/0.1/kick", `{"reson":"x"}`, `unknown field \"reson\"`},
		{"POST /sessions/0.1/kick?reson=x", "", "reson: no such parameter"},
		{"POST /sessions/0.1/kick?reason=x", `{"reason":"y"}`, "reason: given twice"},
		{"POST /config?idle-timeout=9s&idle-timeout=8s", "", "idle-timeout: given twice"},
		{"POST /config?idle-timeout=9s", `{"idle-timeout":"8s"}`, "idle-timeout: given twice"},
		{"POST /config?idle-timeout=9s&heartbeat=%zz", "", "the query: invalid URL escape"},
	} {
		res := r.raw(fmt.Sprintf("%s HTTP/1.1\r\nHost: localhost:%s\r\nContent-Length: %d\r\n\r\n%s", tc.line, r.port(), len(tc.body), tc.body))
		if b, _ := io.ReadAll(res.Body); res.StatusCode != http.StatusBadRequest || !strings.Contains(string(b), tc.want) {
			t.Errorf("%s %s: got %d %.200s, want 400 and %s", tc.line, tc.body, res.StatusCode, b, tc.want)
		}
	}
	if r.srv.Draining() || r.srv.Stats().Conns != 1 || r.srv.Adjustable().IdleTimeout != 0 {
		t.Error("a refused request has changed something")
	}
	if res := r.raw("GET /healthz?verbose&verbose HTTP/1.1\r\nHost: localhost:" + r.port() + "\r\n\r\n"); res.StatusCode != http.StatusOK {
		t.Errorf("a probe's own parameters: got %d, want 200", res.StatusCode)
	}
	var begun struct{ Draining, Begun bool }
	if err := r.client.Post(background, "/drain", map[string]int{"rate": 5}, &begun); err != nil || !begun.Begun {
		t.Errorf("a drain with its rate in the body: %v, %+v", err, begun)
	}
}

// A body that is too long or does not come is told as what it is.
func TestABodyThatIsTooLongOrLate(t *testing.T) {
	t.Parallel()
	r := open(t, func(c *admin.Config, _ *engine.Config) { c.Write, c.Timeout = true, 10*time.Second })
	head := "POST /config HTTP/1.1\r\nHost: localhost:" + r.port() + "\r\n"
	for _, tc := range []struct {
		body string
		code int
		want string
	}{
		{"Content-Length: 70000\r\n\r\n" + strings.Repeat(" ", 70000), http.StatusRequestEntityTooLarge, "must be at most 65536 bytes"},
		{"Content-Length: 70000\r\n\r\n{", http.StatusRequestTimeout, "did not come within 10s"},
	} {
		res := r.raw(head + tc.body)
		if b, _ := io.ReadAll(res.Body); res.StatusCode != tc.code || !strings.Contains(string(b), tc.want) {
			t.Errorf("%.30q: got %d %.200s, want %d and %s", tc.body, res.StatusCode, b, tc.code, tc.want)
		}
	}
}
