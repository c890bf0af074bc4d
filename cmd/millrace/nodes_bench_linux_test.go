package main

import (
	"path/filepath"
	"strings"
	"testing"

	"millrace/bench"
)

// Some of the benchmark's cases over several nodes, each with a NATS server and two nodes in processes
// of their own: every answer is checked there, and whose CPU was used is told apart.
func TestTheBenchmarkMeasuresNodes(t *testing.T) {
	t.Parallel()
	cases := []string{"cluster-group/6x2/g6/n2", "cluster-user/4x2/n2", "room/4x3/n2"}
	file := filepath.Join(t.TempDir(), "nodes.jsonl")
	stdout, stderr, code := millrace(t, nil, "", "bench", "--case", strings.Join(cases, ","), "--reps=1", "--window=300ms", "--warm=20ms", "--json="+file)
	if code != exitOK || !strings.Contains(stdout, "Over several nodes") {
		t.Fatalf("exit code %d: %s\n%s", code, stderr, stdout)
	}
	res, err := bench.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range res.Runs {
		if r.Case != cases[i] || r.Error != "" || r.Skipped != "" || r.Messages == 0 || r.CPU == nil || r.CPU.PerMessage <= 0 || r.Bus == nil || r.Bus.PerMessage <= 0 {
			t.Errorf("got %+v", r)
		}
	}
	if len(res.Runs) != len(cases) {
		t.Errorf("%d runs, want %d", len(res.Runs), len(cases))
	}
}
