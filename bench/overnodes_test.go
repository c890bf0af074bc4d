package bench

import (
	"strings"
	"testing"
)

func TestNodesStandBesideOne(t *testing.T) {
	r := &Results{Header: Header{Format: resultFormat, Reps: 3, Cases: []string{"room/9x1/n1", "room/9x1/n5", "cluster-call/9x1"}}}
	for _, name := range []string{"mill", "std"} {
		r.Header.Targets = append(r.Header.Targets, Target{Name: name})
		for rep := range 3 {
			for i, c := range r.Header.Cases {
				run := Run{Case: c, Target: name, Rep: rep, Skipped: noNodes}
				if name == "mill" {
					machine := float64(rep + 1) // its mood, which a repetition's ratios don't have
					run = Run{Case: c, Target: name, Rep: rep, Rate: 100, CPU: &CPU{PerMessage: float64(10+5*i) * machine}, Bus: &CPU{PerMessage: 7}}
				}
				r.Runs = append(r.Runs, run)
			}
		}
	}
	var b strings.Builder
	if err := r.WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	table := strings.Join(strings.Fields(b.String()), " ")
	for _, want := range []string{
		"Over several nodes", "room/9x1/n5 mill 30.0µs 7.00µs 100/s 0 0 1.50 1.50-1.50", "cluster-call/9x1 mill 40.0µs 7.00µs 100/s",
		"std is left out of room/9x1/n1, room/9x1/n5, cluster-call/9x1: " + noNodes,
	} {
		if !strings.Contains(table, want) {
			t.Errorf("the tables lack %q:\n%s", want, b.String())
		}
	}
}
