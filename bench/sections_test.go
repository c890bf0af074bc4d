package bench

import (
	"fmt"
	"strings"
	"testing"
)

// besideSample has two servers of this project and three others in two cases, one at a fixed rate, one that
// gnet was not asked for.
func besideSample() *Results {
	r := &Results{Header: Header{Format: resultFormat, Base: "gnet", Reps: 3, Cases: []string{"echo/1x1", "echo/5@50%", "services/1x1"}}}
	cost := map[string]float64{"mill": 8, "inline": 4, "gnet": 10, "std": 8, "zinx": 40}
	for _, name := range []string{"mill", "inline", "gnet", "std", "zinx"} {
		t := Target{Name: name, Command: []string{"x", name}}
		if name == "mill" || name == "inline" {
			t.Command[1] = "serve"
		}
		r.Header.Targets = append(r.Header.Targets, t)
		for rep := range 3 {
			wobble := 1.0
			if name == "std" {
				wobble = 1 + 0.1*float64(rep-1)
			}
			for _, c := range r.Header.Cases {
				run := Run{Case: c, Target: name, Rep: rep, Rate: 100, CPU: &CPU{PerMessage: cost[name] * wobble}}
				if strings.Contains(c, "@") {
					run.Offered, run.LagP99, run.Bottle = 50, 2000, name == "zinx"
					run.Latency = &Latency{}
					for i := range quantiles {
						run.Latency.Points = append(run.Latency.Points, cost[name]*float64(i+1)*10)
					}
				}
				if strings.HasPrefix(c, "services") && name != "mill" {
					run = Run{Case: c, Target: name, Rep: rep, Skipped: "no services"}
				}
				r.Runs = append(r.Runs, run)
			}
		}
	}
	return r
}

func TestServersStandBesideTheOthers(t *testing.T) {
	var b strings.Builder
	if err := besideSample().WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	table := strings.Join(strings.Fields(b.String()), " ")
	for _, want := range []string{
		"mill beside the others case x gnet x std x zinx x best which is",
		"echo/1x1 0.80 1.00~ 0.20 1.00~ std", // std wobbles around 8
		"echo/5@50% p50 0.80 1.00~ 0.20 1.00~ std",
		"inline beside the others", "echo/1x1 0.40 0.50 0.10 0.50 std",
		"Latency at a fixed rate", "In 3 of 15 runs the generator itself was late",
	} {
		if !strings.Contains(table, want) {
			t.Errorf("the tables lack %q:\n%s", want, b.String())
		}
	}
	if strings.Contains(table[strings.Index(table, "mill beside"):], "services/1x1") {
		t.Error("a case that nobody else was measured in has a row")
	}
	r := besideSample()
	r.Header.Targets = r.Header.Targets[:3] // one other only: the overview has that ratio already
	b.Reset()
	if err := r.WriteTable(&b); err != nil || strings.Contains(b.String(), "beside the others") {
		t.Errorf("a table of one column was written: %v", err)
	}
}

func TestDoorsStandBesideThePlainCase(t *testing.T) {
	r := &Results{Header: Header{Format: resultFormat, Reps: 3, Cases: []string{"echo/1x1", "ws-echo/1x1", "echo/5@50%", "flood/5@50%", "tls-idle/9"}}}
	for i, name := range []string{"a", "b"} {
		r.Header.Targets = append(r.Header.Targets, Target{Name: name})
		for rep := range 3 {
			add := func(c string, cost, p99 float64) {
				run := Run{Case: c, Target: name, Rep: rep, Rate: 1, CPU: &CPU{PerMessage: cost}, Latency: &Latency{Points: make([]float64, len(quantiles))}}
				for q := range quantiles {
					run.Latency.Points[q] = p99
				}
				if strings.Contains(c, "@") {
					run.Offered = 1
				}
				r.Runs = append(r.Runs, run)
			}
			machine := float64(rep + 1) // what a repetition costs is the machine's mood: its ratios hold
			add("echo/1x1", 10*machine, 1)
			add("echo/5@50%", 10*machine, 100*machine)
			if i == 0 {
				add("ws-echo/1x1", 12*machine, 1)
				add("flood/5@50%", 30*machine, 140*machine)
			} else {
				r.Runs = append(r.Runs, Run{Case: "ws-echo/1x1", Target: name, Rep: rep, Skipped: noDoor + "ws://"})
			}
		}
	}
	var b strings.Builder
	if err := r.WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	table := strings.Join(strings.Fields(b.String()), " ")
	for _, want := range []string{
		"ws-echo/1x1 a echo/1x1 1.20 1.20-1.20",
		"flood/5@50% a echo/5@50% 3.00 3.00-3.00 1.40 1.40-1.40 1.40 1.40-1.40",
		"b is left out of ws-echo/1x1: it does not listen on ws://",
	} {
		if !strings.Contains(table, want) {
			t.Errorf("the tables lack %q:\n%s", want, b.String())
		}
	}
	if strings.Contains(table, "skipped") {
		t.Errorf("a target that does not listen there has a row:\n%s", b.String())
	}
}

func TestMarkdownTablesAreWhole(t *testing.T) {
	r := besideSample()
	r.Header.Cases = append(r.Header.Cases, "churn/1")
	r.Runs = append(r.Runs, Run{Case: "churn/1", Target: "gnet", Error: "a|b\n<c>"})
	for i := range r.Runs {
		r.Runs[i].Target = strings.ReplaceAll(r.Runs[i].Target, "std", "s|d")
	}
	r.Header.Targets[3].Name = "s|d"
	var b strings.Builder
	if err := r.WriteMarkdown(&b); err != nil {
		t.Fatal(err)
	}
	width, tables := 0, 0
	for n, line := range strings.Split(b.String(), "\n") {
		if !strings.HasPrefix(line, "|") {
			width = 0
			continue
		}
		cells := strings.Count(strings.ReplaceAll(line, `\|`, ""), "|")
		if width == 0 {
			width = cells
			tables++
		}
		if cells != width || !strings.HasSuffix(line, "|") {
			t.Errorf("line %d has %d bars, its table %d: %s", n+1, cells, width, line)
		}
	}
	if tables != 4 {
		t.Errorf("got %d tables, want 4:\n%s", tables, b.String())
	}
	if !strings.Contains(b.String(), `1.00\~`) || strings.Contains(b.String(), "\n<c>") {
		t.Errorf("signs that Markdown reads are not escaped:\n%s", b.String())
	}
}

func TestOpenLoopsStayOutOfTheClosedLoopsCharts(t *testing.T) {
	r := besideSample()
	r.Header.Cases = []string{"echo/1x1", "echo/5@50%"}
	if got := overConnections(r.Cells(), func(c *Cell) Spread { return c.Value }); len(got) != 0 {
		t.Errorf("one closed loop and one at a fixed rate make the lines %v", got)
	}
}

func TestManyTargetsDoNotHideEachOther(t *testing.T) {
	r := &Results{Header: Header{Base: "t0", Cases: []string{"echo/1x1"}}}
	for i := range 11 {
		name := fmt.Sprintf("t%d", i)
		r.Header.Targets = append(r.Header.Targets, Target{Name: name})
		r.Runs = append(r.Runs, Run{Case: "echo/1x1", Target: name, CPU: &CPU{PerMessage: 5}})
	}
	var b strings.Builder
	if err := r.WriteSVG(&b); err != nil {
		t.Fatal(err)
	}
	places := map[string]bool{}
	n := 0
	for _, c := range strings.Split(b.String(), "<circle ")[1:] {
		at, _, _ := strings.Cut(c, ` r="`)
		places[at] = true
		n++
	}
	if n != 22 || len(places) != n { // the legend's and the dots
		t.Errorf("%d marks lie in %d places", n, len(places))
	}
}
