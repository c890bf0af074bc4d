package bench

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestWorkloadSpecsRoundTrip(t *testing.T) {
	kinds := []Kind{Echo, Broadcast, Groups, Idle, Churn, Mixed, Sleep, Timers, SetKill, Database, Services, Inline, Cache, Locks, Replay, Flood,
		ClusterCall, ClusterGroup, ClusterUser, ClusterBind, Room}
	rapid.Check(t, func(t *rapid.T) {
		w := workloadDefaults[rapid.SampledFrom(kinds).Draw(t, "kind")]
		for k, d := range workloadDefaults {
			if d == w && w.Kind == "" {
				w.Kind = k // several kinds share their defaults: any of them will do
				break
			}
		}
		w.Conns = rapid.IntRange(10, 100000).Draw(t, "conns")
		if w.Depth > 0 {
			w.Depth = rapid.IntRange(1, 64).Draw(t, "depth")
		}
		if w.Body > 0 {
			w.Body = rapid.SampledFrom([]int{0, 7, 64, 4096, 1 << 20, 5000}).Draw(t, "body")
		}
		if w.Members > 0 {
			w.Members = rapid.IntRange(1, 10).Draw(t, "members")
		}
		if w.Nodes > 0 {
			w.Nodes = rapid.IntRange(1, 64).Draw(t, "nodes")
		}
		if w.Every > 0 {
			w.Every = time.Duration(rapid.IntRange(1, 5000).Draw(t, "every")) * time.Millisecond
		}
		if w.Kind == Replay {
			w.File = "/tmp/traffic.pcapng"
		}
		w.Door = rapid.SampledFrom([]string{"", "tls", "ws", "wss", "tcp+ws", "ws+tls+tcp"}).Draw(t, "door")
		if (w.Kind == Echo || w.Kind == Flood) && rapid.Bool().Draw(t, "open") {
			w.Rate = float64(rapid.IntRange(1, 1e6).Draw(t, "rate"))
			if rapid.Bool().Draw(t, "relative") {
				w.Rate, w.Percent = 0, float64(rapid.IntRange(1, 1000).Draw(t, "percent"))/10
			}
		}
		got, err := ParseWorkload(w.String())
		if err != nil || got != w {
			t.Fatalf("%s: got %+v, %v, want %+v", w, got, err, w)
		}
	})
}

func TestWrongSpecsAreRefused(t *testing.T) {
	for _, spec := range []string{
		"", "echo", "echo/", "echo/x", "echo/0", "echo/-1", "echo/1xx", "echo/1x70000", "echo/1@0", "echo/1@-5", "echo/1@NaN", "echo/1@Inf", "echo/1@0%", "echo/1@101%", "echo/1@%", "broadcast/10@50%",
		"nonsense/1", "broadcast/10@100", "groups/5/g6", "timers/1/10us", "echo/1/-5", "echo/1/1TiB", "echo/1/64/64MiB", "sleep/1/-2ms", "echo/99999999",
		"-echo/1", "udp-echo/1", "tls+-echo/1", "tls+tls-echo/1", "tls-/1", "flood/1/g0", "tls-broadcast/1@5", "replay/1", "replay/1/file:", "echo/1/file:x", "replay/1@5/file:x",
		"echo/1/n3", "cluster-call/1/n0", "cluster-call/1/n65", "cluster-bind/1x65", "cluster-group/50", "cluster-/1", "cluster-call/1@5", "room/1/nx",
	} {
		if w, err := ParseWorkload(spec); err == nil {
			t.Errorf("%q: got %+v, want an error", spec, w)
		}
	}
}

func FuzzParseWorkload(f *testing.F) {
	for _, s := range []string{"echo/100x32", "echo/1@5.5/4KiB", "timers/3x2/20ms", "groups/9x1/g3", "tls-echo/1", "tcp+ws-broadcast/9x2", "flood/5@50%/g20", "replay/9x3/file:/tmp/a/b", "tls-cluster-call/9x3/n5"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, spec string) {
		w, err := ParseWorkload(spec)
		if err != nil {
			return
		}
		if again, err := ParseWorkload(w.String()); err != nil || again != w {
			t.Errorf("%q: %+v became %+v, %v", spec, w, again, err)
		}
	})
}

func TestSetsOfCasesAreDistinctAndLegal(t *testing.T) {
	for _, set := range [][]Workload{Standard(), Quick(), Targeted(), AtHalf(), Doors(), Clustered(), Growth()} {
		seen := map[string]bool{}
		for _, w := range set {
			if err := w.validate(); err != nil || seen[w.String()] {
				t.Errorf("%s: %v, seen %v", w, err, seen[w.String()])
			}
			seen[w.String()] = true
		}
	}
}

func TestPatternBodiesDiffer(t *testing.T) {
	p := newPattern(64)
	seen := map[string]bool{}
	for id := range uint32(40) {
		for seq := range uint64(100) {
			b := string(p.append(nil, id, seq))
			if seen[b] {
				t.Fatalf("connection %d, number %d: the body was seen before", id, seq)
			}
			seen[b] = true
			if !p.check([]byte(b), id, seq) || p.check([]byte(b), id, seq+1) || p.check([]byte(b), id+1, seq) {
				t.Fatalf("connection %d, number %d: check is wrong", id, seq)
			}
		}
	}
}

func TestRunListIsAQueue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var r runList
		var model []int64
		at := int64(0)
		for range rapid.IntRange(0, 200).Draw(t, "steps") {
			n := rapid.IntRange(0, 40).Draw(t, "n")
			if rapid.Bool().Draw(t, "push") {
				at += int64(rapid.IntRange(0, 1).Draw(t, "later"))
				r.push(at, n)
				for range n {
					model = append(model, at)
				}
				continue
			}
			for n > 0 {
				got, took := r.pop(n)
				if took == 0 {
					break
				}
				for range took {
					if len(model) == 0 || model[0] != got {
						t.Fatalf("popped %d, the model has %v", got, model)
					}
					model = model[1:]
				}
				n -= took
			}
			if n > 0 && len(model) > 0 {
				t.Fatalf("empty, but the model has %v", model)
			}
		}
	})
}

func TestJSONFieldFindsMembers(t *testing.T) {
	body := []byte(`{"note":"id:5 n","id": 12 ,"n":-3,"killed":true,"val":"a,b","id2":7}`)
	for key, want := range map[string]string{"id": "12", "n": "-3", "killed": "true", "val": `"a,b"`, "id2": "7", "x": ""} {
		if got := string(jsonField(body, key)); got != want {
			t.Errorf("%s: got %q, want %q", key, got, want)
		}
	}
	if _, ok := jsonInt(body, "killed"); ok {
		t.Error("true was read as a number")
	}
	for _, broken := range []string{``, `{`, `{"id"`, `{"id":`, `{"id":"`, `"id":1`} {
		_ = jsonField([]byte(broken), "id") // must not panic
	}
}

func TestErrorFramesAreDescribed(t *testing.T) {
	if got := describeError([]byte{0, 2, 0, 4, 0, 3, 'n', 'o'}); !strings.Contains(got, "ERROR 2 unknown_handle about 4/3: no") {
		t.Errorf("got %q", got)
	}
	if got := describeError([]byte{1}); !strings.Contains(got, "malformed") {
		t.Errorf("got %q", got)
	}
}
