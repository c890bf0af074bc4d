package admin_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"millrace/engine"
	"millrace/services"
	"millrace/services/admin"
	"millrace/services/admin/live"
)

// spend has the rig's server keep account, and 7/1 set a tag and use a CPU for 5 ms.
func spend(t testing.TB, change func(*admin.Config, *engine.Config)) *rig {
	r := open(t, func(c *admin.Config, e *engine.Config) {
		e.Costs = true
		if change != nil {
			change(c, e)
		}
	})
	err := r.c.Raw(services.Handle(7, 1), func(s *engine.Session, p packet) error {
		s.SetTag(string(p.Body))
		for end := time.Now().Add(5 * time.Millisecond); time.Now().Before(end); {
		}
		return s.Reply(p, p.Body)
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// spender asks 7/1 over and over until the test ends; its own account is apart from that of
// those that do little.
func (r *rig) spender(tag string) *peer {
	p := r.dial()
	stop, done := make(chan struct{}), make(chan struct{})
	r.Cleanup(func() { close(stop); <-done })
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			b := packet{Main: 7, Sub: 1, Body: []byte(tag)}.Append(nil)
			if _, err := p.Write(b); err != nil {
				return
			}
			if _, err := p.r.Next(); err != nil {
				return
			}
		}
	}()
	return p
}

// The most expensive session, handle and tag are listed in /costs, in /live, by ?sort=cpu and in the
// metrics. Handles that peers invent are counted as other; known ones keep their names.
func TestWhoCostsWhatIsTold(t *testing.T) {
	t.Parallel()
	r := spend(t, nil)
	light := r.dial()
	for i := range 1500 { // more than have accounts
		light.send(99, uint16(i), "")
		light.wantError(engine.CodeUnknownHandle, services.Handle(99, uint16(i)), "unknown handle")
	}
	heavy := r.spender("gold")
	addr := heavy.LocalAddr().String()
	light.echo("x")

	var c admin.Costs
	r.get("/costs?seconds=0.3&limit=2", &c)
	if !c.Counted || c.Seconds < 0.3 || c.Busy <= 0 || len(c.Sessions) == 0 || len(c.Sessions) > 2 || len(c.Handles) > 2 {
		t.Fatalf("/costs: %s", pretty(c))
	}
	if s := c.Sessions[0]; s.Addr != addr || s.Tag != "gold" || s.Seconds < c.Busy/2 || c.Handles[0].Handle != "7/1" || c.Tags[0].Tag != "gold" {
		t.Errorf("the dearest: %s", pretty(c))
	}
	v := r.live("sort=cpu", "who costs what", func(v *admin.Live) bool {
		return v.Costs != nil && v.Costs.Known && len(v.Costs.Sessions) > 0 && len(v.Sessions) == 2 && v.Sessions[0].Addr == addr // has overtaken what light has cost
	})
	if s := v.Costs.Sessions[0]; s.Addr != addr || s.Tag != "gold" || s.Busy <= 0 || s.Busy > 10_000 || v.Costs.Handles[0].Name != "7/1" || v.Costs.Tags[0].Name != "gold" {
		t.Errorf("/live: %s", pretty(v.Costs))
	}
	if !slices.Contains(v.Sorts, "cpu") || !slices.Contains(v.Sorts, "wait") || v.Sessions[0].CPU <= v.Sessions[1].CPU || v.Sessions[0].Tag != "gold" {
		t.Errorf("/live by cpu: %v, %s", v.Sorts, pretty(v.Sessions))
	}
	for _, by := range []string{"cpu", "wait"} {
		var list admin.Sessions
		r.get("/sessions?sort="+by, &list)
		key := func(s admin.Session) float64 {
			if by == "cpu" {
				return s.CPU
			}
			return s.Wait
		}
		if len(list.Sessions) != 2 || list.Note != "" || key(list.Sessions[0]) < key(list.Sessions[1]) {
			t.Errorf("/sessions by %s: %s", by, pretty(list))
		}
	}
	_, at := r.scrape()
	for _, name := range []string{`handle="7/1"`, `handle="1/1"`, `handle="other"`, `handle="none"`} {
		if at["millrace_handle_busy_seconds_total{"+name+"}"] <= 0 {
			t.Errorf("%s took %v s", name, at["millrace_handle_busy_seconds_total{"+name+"}"])
		}
	}
	n := 0
	for k := range at {
		if strings.HasPrefix(k, "millrace_handle_busy_seconds_total{") {
			n++
		}
	}
	if n > 64 || at[`millrace_tag_busy_seconds_total{tag="gold"}`] <= 0 || at[`millrace_tag_busy_seconds_total{tag=""}`] <= 0 {
		t.Errorf("%d handles with costs; gold took %v s, those without a tag %v", n, at[`millrace_tag_busy_seconds_total{tag="gold"}`], at[`millrace_tag_busy_seconds_total{tag=""}`])
	}
}

// However many tags there are, few have metrics of their own, a counter never shrinks, and
// no text of a tag breaks them.
func TestTagsAreBounded(t *testing.T) {
	r := spend(t, nil)
	p := r.dial()
	tag := func(name string) {
		p.send(7, 1, name)
		p.next()
	}
	read := func() (all map[string]float64) {
		text, at := r.scrape()
		all = map[string]float64{}
		for k, v := range at {
			if name, ok := strings.CutPrefix(k, `millrace_tag_busy_seconds_total{tag="`); ok {
				all[strings.TrimSuffix(name, `"}`)] = v
			}
		}
		if len(all) == 0 {
			t.Fatal(text)
		}
		return all
	}
	tag("zz first")
	tag("zz last")
	before := read()
	for _, hostile := range []string{"other", "a\xffb", "\"}\n# x", strings.Repeat("long", 100), ""} {
		tag(hostile)
	}
	for i := range 100 {
		tag(fmt.Sprintf("tag %03d", i))
	}
	p.echo("the turn before has been charged")
	after := read()
	if len(after) > 64 || after["other"] < before["other"]+0.01 {
		t.Errorf("%d tags have metrics, and %v s are others'", len(after), after["other"])
	}
	for name, was := range before {
		if after[name] < was {
			t.Errorf("the counter of %q went from %v to %v", name, was, after[name])
		}
	}
	var c admin.Costs
	r.get("/costs?seconds=0.05", &c)
}

// Without costs everything is served, and says that they are off.
func TestCostsThatNobodyCounts(t *testing.T) {
	r := open(t, nil)
	r.dial().echo("x")
	var c admin.Costs
	r.get("/costs?seconds=60", &c) // it does not wait for what can't come
	if c.Counted || len(c.Sessions)+len(c.Handles)+len(c.Tags) != 0 {
		t.Errorf("/costs: %s", pretty(c))
	}
	for _, by := range []string{"cpu", "wait"} {
		var list admin.Sessions
		r.get("/sessions?sort="+by, &list)
		if len(list.Sessions) != 1 || !strings.Contains(list.Note, "--costs") {
			t.Errorf("by %s: %s", by, pretty(list))
		}
	}
	v := r.live("sort=cpu", "an answer", func(*admin.Live) bool { return true })
	if v.Costs != nil || slices.Contains(v.Sorts, "cpu") {
		t.Errorf("/live: %v, %s", v.Sorts, pretty(v.Costs))
	}
	if text, _ := r.scrape(); strings.Contains(text, "busy_seconds") {
		t.Error("metrics of costs that nobody counts")
	}
	for _, q := range []string{"seconds=0", "seconds=61", "seconds=x", "limit=0"} {
		if got, text := r.status("GET", "/costs?"+q); got != http.StatusBadRequest || text == "" {
			t.Errorf("?%s: got %d %q, want 400", q, got, text)
		}
	}
}

// The log and the state list each stall and each near miss: which session, when, how long or how near.
func TestStallsAndNearMissesAreListed(t *testing.T) {
	t.Parallel()
	r := open(t, func(_ *admin.Config, e *engine.Config) {
		e.StallAfter, e.MaxConns, e.Dispatch, e.RecorderKeep, e.Pool = 20*time.Millisecond, 10, engine.Ordered, 16, nil
	})
	gate := make(chan struct{})
	if err := r.c.Raw(services.Handle(7, 2), func(s *engine.Session, p packet) error { <-gate; return s.Reply(p, nil) }); err != nil {
		t.Fatal(err)
	}
	stuck := r.dial()
	stuck.send(7, 2, "")
	for range 8 {
		r.dial().echo("x")
	}
	began := time.Now()
	var st admin.Stalls
	at := -1 // a busy machine may have others
	eventually(t, "the stall", func() bool {
		r.get("/stalls", &st)
		at = slices.IndexFunc(st.Stalls, func(s admin.Stall) bool { return s.Handle == "7/2" })
		return at >= 0
	})
	s := st.Stalls[at]
	if s.Where != "worker" || s.Addr != stuck.LocalAddr().String() || s.Seconds < 0.02 || st.Total < 1 || began.Sub(s.At).Abs() > patience ||
		!strings.Contains(s.Place, "TestStallsAndNearMissesAreListed") {
		t.Errorf("/stalls: %s", pretty(st))
	}
	var nm admin.NearMisses
	r.get("/near", &nm)
	if len(nm.Near) != 1 || nm.Total["max-conns"] != 1 || nm.Total["max-outbound"] != 0 {
		t.Fatalf("/near: %s", pretty(nm))
	}
	if n := nm.Near[0]; n.Limit != "max-conns" || n.Used != 9 || n.Max != 10 || n.Session == "" || !strings.HasPrefix(n.Addr, "127.0.0.1:") || n.At.IsZero() {
		t.Errorf("/near: %s", pretty(nm))
	}
	find := func(v *admin.Live, kind, text string) *live.Event {
		for i, e := range v.Events {
			if e.Kind == kind && strings.Contains(e.Text, text) {
				return &v.Events[i]
			}
		}
		return nil
	}
	v := r.live("", "both in the log", func(v *admin.Live) bool {
		return find(v, live.Stalled, "7/2 blocked a worker for ") != nil && find(v, live.Near, "max-conns: 9 of 10, ") != nil
	})
	if e := find(&v, live.Stalled, "7/2"); e.At != s.At.UnixMilli() || e.Level != live.Bad || !strings.Contains(e.Text, ", of "+s.Session+" of "+s.Addr) || !strings.Contains(e.Text, ", at ") {
		t.Errorf("the log: %s, the stall: %s", pretty(e), pretty(s))
	}
	if e := find(&v, live.Near, "max-conns"); !strings.Contains(e.Text, nm.Near[0].Session+" of "+nm.Near[0].Addr) || e.At != nm.Near[0].At.UnixMilli() {
		t.Errorf("the log: %s, the near miss: %s", pretty(e), pretty(nm.Near[0]))
	}
	v = r.live(fmt.Sprintf("since=%d", v.Seq), "two seconds later", func(l *admin.Live) bool { return l.Seq >= v.Seq+2 })
	for _, text := range []string{"7/2 blocked a worker", "max-conns: 9 of 10"} {
		told := 0
		for _, e := range v.Events {
			if strings.HasPrefix(e.Text, text) && (e.Kind == live.Stalled || e.Kind == live.Near) {
				told += e.N
			}
		}
		if told != 1 {
			t.Errorf("%q was told %d times: %s", text, told, pretty(v.Events))
		}
	}
	close(gate)
	stuck.next()
	for _, path := range []string{"/stalls", "/near"} {
		if got, _ := r.status("GET", path+"?limit=0"); got != http.StatusBadRequest {
			t.Errorf("%s?limit=0: %d, want 400", path, got)
		}
		if got, _ := r.status("POST", path); got != http.StatusMethodNotAllowed {
			t.Errorf("POST %s: %d, want 405", path, got)
		}
	}
}
