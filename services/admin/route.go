package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"

	"millrace/engine"
)

// request is a request being served.
type request struct {
	*http.Request
	d       *Door
	w       *limitedWriter
	session *engine.Session // for /sessions/INDEX.ROUND
}

// handler answers with a value to be encoded as JSON; nil if it has answered itself.
type handler func(r *request) (any, error)

// endpoint is what a path has.
type endpoint struct {
	get   handler  // for HEAD too; nil: 405
	post  handler  // changes something; nil: 405
	takes []string // parameters of the query; nil: any, which get ignores
}

// endpoints returns the endpoints with fixed paths.
func endpoints() map[string]endpoint {
	return map[string]endpoint{
		"/":         {get: getPage},
		"/live":     {get: getLive, takes: []string{"events", "limit", "open", "q", "since", "sort"}},
		"/healthz":  {get: healthz},
		"/readyz":   {get: readyz},
		"/metrics":  {get: metrics},
		"/stats":    {get: stats},
		"/sessions": {get: sessions, takes: []string{"closed", "limit", "q", "sort"}},
		"/loops":    {get: loops},
		"/handles":  {get: handles},
		"/pool":     {get: pool},
		"/timers":   {get: timers},
		"/db":       {get: database},
		"/cache":    {get: cache},
		"/cluster":  {get: clusterStats},
		"/limits":   {get: limits},
		"/costs":    {get: costs, takes: []string{"limit", "seconds"}},
		"/stalls":   {get: stalls},
		"/near":     {get: near},
		"/config":   {get: config, post: setConfig},
		"/drain":    {post: drain, takes: []string{"rate"}},
		"/undrain":  {post: undrain, takes: []string{}},
		"/trace":    {get: trace, takes: []string{"seconds"}},
	}
}

// find returns the endpoint of the path, and sets the session that the path names.
func (r *request) find() (endpoint, bool) {
	if e, ok := r.d.paths[r.URL.Path]; ok {
		return e, true
	}
	if rest, ok := strings.CutPrefix(r.URL.Path, "/sessions/"); ok {
		id, verb, _ := strings.Cut(rest, "/")
		if r.session = r.d.session(id); r.session == nil {
			return endpoint{}, false
		}
		switch {
		case rest == id:
			return endpoint{get: session}, true
		case verb == "kick":
			return endpoint{post: kick, takes: []string{"reason"}}, true
		}
		return endpoint{}, false
	}
	if name, ok := strings.CutPrefix(r.URL.Path, "/debug/pprof"); ok && r.d.cfg.Pprof {
		return profileOf(strings.TrimPrefix(name, "/"))
	}
	return endpoint{}, false
}

// session returns the session with the ID INDEX.ROUND.
func (d *Door) session(id string) *engine.Session {
	index, round, _ := strings.Cut(id, ".")
	i, err1 := strconv.ParseUint(index, 10, 32)
	n, err2 := strconv.ParseUint(round, 10, 32)
	if err1 != nil || err2 != nil {
		return nil
	}
	return d.cfg.Server.Session(engine.ID(n<<32 | i))
}

// route serves an admitted request.
func (d *Door) route(r *request) error {
	e, ok := r.find()
	if !ok {
		if id, ok := strings.CutPrefix(r.URL.Path, "/sessions/"); ok {
			id, _, _ = strings.Cut(id, "/")
			return &refusal{http.StatusNotFound, fmt.Sprintf("no session %.40q; /sessions lists them as INDEX.ROUND", id)}
		}
		return &refusal{http.StatusNotFound, fmt.Sprintf("no such path %.80q", r.URL.Path)}
	}
	var h handler
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		h = e.get
	case http.MethodPost:
		h = e.post
	}
	if h == nil {
		var allow []string
		if e.get != nil {
			allow = append(allow, http.MethodGet, http.MethodHead)
		}
		if e.post != nil {
			allow = append(allow, http.MethodPost)
		}
		r.w.Header().Set("Allow", strings.Join(allow, ", "))
		return &refusal{http.StatusMethodNotAllowed, "allowed here: " + strings.Join(allow, ", ")}
	}
	if r.Method == http.MethodPost {
		if err := d.mayChange(r); err != nil {
			return err
		}
	}
	if r.Method == http.MethodPost || e.takes != nil {
		if err := r.parameters(e.takes); err != nil {
			return err
		}
	}
	v, err := h(r)
	if err == nil && r.Method == http.MethodPost {
		d.renew()
	}
	if err != nil || v == nil {
		return err
	}
	r.answer(http.StatusOK, v)
	return nil
}

// answer sends v as JSON.
func (r *request) answer(status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		status, b = http.StatusInternalServerError, []byte(`{"error":"the answer can't be written as JSON"}`)
		r.d.cfg.Logger.Error("admin: answer", "path", r.URL.Path, "err", err)
	}
	h := r.w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(b)+1))
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	r.w.WriteHeader(status)
	_, _ = r.w.Write(append(b, '\n')) // fails only if the client has disconnected
}

// fail answers with the reason of a refusal.
func (r *request) fail(err error) {
	var no *refusal
	if !errors.As(err, &no) {
		no = &refusal{http.StatusInternalServerError, err.Error()}
	}
	r.d.refused.Add(1)
	r.answer(no.status, map[string]string{"error": no.text})
}

func badRequest(format string, args ...any) error {
	return &refusal{http.StatusBadRequest, fmt.Sprintf(format, args...)}
}

// number reads a whole number of 1 or more from a query; def if absent.
func (r *request) number(name string, def int) (int, error) {
	v := r.URL.Query().Get(name)
	if v == "" && !r.URL.Query().Has(name) {
		return def, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 {
		return 0, badRequest("%s=%q: must be a whole number, 1 or more", name, v)
	}
	return n, nil
}

// maxBody is how long a request's body may be, in bytes.
const maxBody = 64 << 10

// parameters checks the query: what is misspelt or given twice is an error, not ignored.
func (r *request) parameters(takes []string) error {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return badRequest("the query: %v", err)
	}
	for _, name := range sorted(q) {
		switch {
		case len(q[name]) > 1:
			return badRequest("%.40s: given twice", name)
		case takes != nil && len(takes) == 0:
			return badRequest("%.40s: no parameters are taken here", name)
		case takes != nil && !slices.Contains(takes, name):
			return badRequest("%.40s: no such parameter; these are taken here: %s", name, strings.Join(takes, ", "))
		}
	}
	return nil
}

// flag reads a parameter that is 0 or 1; false if absent.
func (r *request) flag(name string) (bool, error) {
	q := r.URL.Query()
	if !q.Has(name) {
		return false, nil
	}
	on, err := strconv.ParseBool(q.Get(name))
	if err != nil {
		return false, badRequest("%s=%q: must be 0 or 1", name, q.Get(name))
	}
	return on, nil
}

// object decodes a body that is a JSON object without unknown names, or empty.
func (r *request) object(v any) error {
	b, err := io.ReadAll(http.MaxBytesReader(r.w, r.Body, maxBody))
	var long *http.MaxBytesError
	switch {
	case errors.As(err, &long):
		return &refusal{http.StatusRequestEntityTooLarge, fmt.Sprintf("the body: must be at most %d bytes", maxBody)}
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &refusal{http.StatusRequestTimeout, fmt.Sprintf("the body: did not come within %v", r.d.cfg.Timeout)}
	case err != nil:
		return badRequest("the body: %v", err)
	case len(b) == 0:
		return nil
	}
	in := json.NewDecoder(bytes.NewReader(b))
	in.DisallowUnknownFields()
	err = in.Decode(v)
	if err == nil && in.More() {
		err = errors.New("more than one value")
	}
	if err != nil {
		return badRequest("the body is not the expected JSON: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	return nil
}
