package admin

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"runtime/pprof"
	runtimetrace "runtime/trace"
	"slices"
	"strconv"
	"sync"
	"time"
)

// maxProfile is how long a profile or a trace may be recorded.
const maxProfile = 60 * time.Second

// profileOf returns the endpoint for /debug/pprof/, like net/http/pprof, which is not imported
// because it would also register itself on http.DefaultServeMux. The command line, which may
// contain secrets, is not served.
func profileOf(name string) (endpoint, bool) {
	switch {
	case name == "":
		return endpoint{get: listProfiles}, true
	case name == "profile":
		return endpoint{get: cpuProfile, takes: []string{"seconds"}}, true
	case pprof.Lookup(name) != nil:
		return endpoint{get: func(r *request) (any, error) { return nil, r.writeProfile(pprof.Lookup(name)) }, takes: []string{"debug", "gc"}}, true
	}
	return endpoint{}, false
}

func listProfiles(r *request) (any, error) {
	if err := r.d.ownUser(r); err != nil {
		return nil, err
	}
	names := []string{"profile"}
	for _, p := range pprof.Profiles() {
		names = append(names, p.Name())
	}
	slices.Sort(names)
	return map[string]any{"profiles": names}, nil
}

// writeProfile writes one of the runtime's profiles, with ?debug= as text; ?gc=1 runs a garbage
// collection first.
func (r *request) writeProfile(p *pprof.Profile) error {
	if err := r.d.ownUser(r); err != nil {
		return err
	}
	debug := 0
	if v := r.URL.Query().Get("debug"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 0 || n > 2 {
			return badRequest("debug=%q: must be 0, 1 or 2", v)
		}
		debug = n
	}
	gc, err := r.flag("gc")
	if err != nil {
		return err
	}
	if gc {
		runtime.GC()
	}
	var b bytes.Buffer // the time to make it is not the client's time to read it
	if err := p.WriteTo(&b, debug); err != nil {
		return err
	}
	r.file(p.Name(), debug > 0)
	_, err = b.WriteTo(r.w)
	return err
}

// file sets the headers for a file, or for text to be displayed.
func (r *request) file(name string, text bool) {
	h := r.w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if text {
		h.Set("Content-Type", "text/plain; charset=utf-8")
		return
	}
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Disposition", fmt.Sprintf("attachment; filename=%q", name))
}

// seconds returns how long to record, from ?seconds=.
func (r *request) seconds(def time.Duration) (time.Duration, error) {
	v := r.URL.Query().Get("seconds")
	if v == "" {
		return def, nil
	}
	f, err := strconv.ParseFloat(v, 64)
	if d := time.Duration(f * float64(time.Second)); err == nil && d > 0 && d <= maxProfile {
		return d, nil
	}
	return 0, badRequest("seconds=%q: must be above 0, and at most %v", v, maxProfile.Seconds())
}

// record makes start write to memory for a time, and sends the result. It ends early if the client
// disconnects.
func (r *request) record(name string, d time.Duration, start func(io.Writer) error, stop func()) error {
	var b bytes.Buffer
	if err := start(&b); err != nil {
		return &refusal{http.StatusConflict, "a recording is already in progress: " + err.Error()}
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-r.Context().Done():
	}
	stop()
	r.file(name, false)
	_, err := b.WriteTo(r.w)
	return err
}

// cpuProfile records a CPU profile, for ?seconds=30.
func cpuProfile(r *request) (any, error) {
	if err := r.d.ownUser(r); err != nil {
		return nil, err
	}
	d, err := r.seconds(30 * time.Second)
	if err != nil {
		return nil, err
	}
	return nil, r.record("profile", d, pprof.StartCPUProfile, pprof.StopCPUProfile)
}

// tracer keeps the most recent execution trace, if configured.
type tracer struct {
	keep time.Duration
	mu   sync.Mutex
	rec  *runtimetrace.FlightRecorder // guarded by mu; nil if nothing is kept
}

// maxTrace limits what a recorder keeps, in bytes.
const maxTrace = 16 << 20

func (t *tracer) start() error {
	if t.keep == 0 {
		return nil
	}
	rec := runtimetrace.NewFlightRecorder(runtimetrace.FlightRecorderConfig{MinAge: t.keep, MaxBytes: maxTrace})
	if err := rec.Start(); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rec = rec
	return nil
}

func (t *tracer) stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.rec != nil {
		t.rec.Stop()
		t.rec = nil
	}
}

// snapshot returns what is kept; nil for nothing.
func (t *tracer) snapshot() (*bytes.Buffer, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.rec == nil {
		return nil, nil
	}
	var b bytes.Buffer
	_, err := t.rec.WriteTo(&b)
	return &b, err
}

// trace is GET /trace: what was kept or, with ?seconds= or if nothing is kept, a new recording.
func trace(r *request) (any, error) {
	if err := r.d.ownUser(r); err != nil {
		return nil, err
	}
	d, err := r.seconds(time.Second)
	if err != nil {
		return nil, err
	}
	if !r.URL.Query().Has("seconds") {
		b, err := r.d.trace.snapshot()
		if err != nil {
			return nil, errors.Join(errors.New("admin: trace"), err)
		}
		if b != nil {
			r.file("trace", false)
			_, err = b.WriteTo(r.w)
			return nil, err
		}
	}
	return nil, r.record("trace", d, runtimetrace.Start, runtimetrace.Stop)
}
