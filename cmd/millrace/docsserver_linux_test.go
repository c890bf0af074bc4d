package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"millrace/codec"
	"millrace/engine"
)

// The limits page's defaults are serve's, and it has every flag that limits something.
func TestTheLimitsPagesDefaultsAreServes(t *testing.T) {
	config, _, code := millrace(t, nil, "", "serve", "--print-config")
	if code != 0 {
		t.Fatalf("--print-config: exit code %d", code)
	}
	text := page(t, "docs/limits.md")
	rows := regexp.MustCompile("(?m)^\\| `--([a-z0-9-]+)` \\| ([^ ]+) \\|").FindAllStringSubmatch(text, -1)
	if len(rows) < 40 {
		t.Fatalf("%d rows of limits, want 40 or more", len(rows))
	}
	for _, row := range rows {
		name, value := row[1], row[2]
		if !strings.Contains("\n"+config, "\n"+name+" = "+value+"\n") && !strings.Contains("\n"+config, "\n"+name+` = "`+value+"\"\n") {
			t.Errorf("docs/limits.md says --%s is %s; --print-config says otherwise:\n%s", name, value, config)
		}
	}
	limits := regexp.MustCompile(`(^max-|-timeout$|-rate$|-rate-per-ip$|-bytes$|-queue$|-limit$)`)
	for _, line := range strings.Split(config, "\n") {
		name, _, _ := strings.Cut(line, " = ")
		if limits.MatchString(name) && !strings.Contains(text, "`--"+name+"`") {
			t.Errorf("docs/limits.md lacks --%s", name)
		}
	}
}

// valuesOf are the values of a label in the lines of a metric, sorted.
func valuesOf(label, lines string) string {
	all := map[string]bool{}
	for _, m := range regexp.MustCompile(`[{,]`+label+`="([^"]*)"`).FindAllStringSubmatch(lines, -1) {
		all["`"+m[1]+"`"] = true
	}
	return strings.Join(slices.Sorted(keys(all)), " ")
}

// docs/metrics.md has every metric of a server that has all parts.
func TestTheMetricsPageIsWhole(t *testing.T) {
	s := serve(t, "--admin=127.0.0.1:0", "--db=postgres://127.0.0.1:1/x", "--cluster=embedded", "--cluster-dir="+t.TempDir(), "--costs")
	s.dial().write([]byte("\x00\x00\x00\x05\x00\x01\x00\x01x"))
	metric := regexp.MustCompile(`(?m)^# HELP (millrace_\w+) (.+)\n# TYPE \w+ (\w+)\n((?:millrace_.+\n)*)`)
	var b strings.Builder
	b.WriteString("\n| metric | type | labels | |\n| --- | --- | --- | --- |\n")
	n := 0
	values := "\n| label | of | values |\n| --- | --- | --- |\n"
	for _, m := range metric.FindAllStringSubmatch(metrics(t, s), -1) {
		n++
		labels := map[string]bool{}
		for _, l := range regexp.MustCompile(`(\w+)="`).FindAllStringSubmatch(m[4], -1) {
			labels[l[1]] = l[1] != "le"
		}
		if strings.HasPrefix(m[2], "What "+strings.TrimSuffix(strings.ReplaceAll(strings.TrimPrefix(m[1], "millrace_"), "_", " "), " total")) {
			t.Errorf("%s has no help of its own: %s", m[1], m[2])
		}
		for _, l := range []string{"code", "limit", "outcome", "reason", "transport"} {
			if labels[l] {
				values += fmt.Sprintf("| `%s` | `%s` | %s |\n", l, m[1], valuesOf(l, m[4]))
			}
		}
		var names []string
		for _, l := range slices.Sorted(keys(labels)) {
			names = append(names, "`"+l+"`")
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", m[1], m[3], strings.Join(names, " "), strings.TrimSuffix(m[2], "."))
	}
	if n < 100 {
		t.Fatalf("%d metrics, want 100 or more", n)
	}
	compareTable(t, "docs/metrics.md", b.String()+values)
	all := page(t, "docs/metrics.md")
	for _, name := range manual(t) {
		for _, m := range regexp.MustCompile(`millrace_[a-z_]+[a-z]`).FindAllString(page(t, name), -1) {
			if !strings.Contains(all, "`"+m+"`") && m != "millrace_migrations" {
				t.Errorf("%s: there is no metric %s", name, m)
			}
		}
	}
}

func keys(m map[string]bool) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k, wanted := range m {
			if wanted && !yield(k) {
				return
			}
		}
	}
}

// metrics are what the operator's door says.
func metrics(t *testing.T, s *process) string {
	t.Helper()
	res, err := http.Get("http://" + s.door() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 200 {
		t.Fatalf("%d, %v", res.StatusCode, err)
	}
	return string(b)
}

// The handles that docs name are the reference server's, and its page has all of them. What
// nobody serves is ERROR 2.
func TestTheDocsNameHandlesThatAre(t *testing.T) {
	s := serve(t, "--unsafe-demo", "--resume=1s")
	known := map[string]bool{"0/1": true, "0/2": true, "0/3": true, "0/4": true, "0/5": true, "0/6": true, "0/7": true, "0/8": true}
	for _, pushed := range []string{"1/8", "2/4", "4/6", "6/6"} {
		known[pushed] = true
	}
	for main := range uint16(8) {
		for sub := range uint16(24) {
			if main == 0 || main == 1 && sub == 9 {
				continue
			}
			c := s.dial()
			c.write(codec.Packet{Main: main, Sub: sub, Body: []byte("{}")}.Append(nil))
			c.write([]byte("\x00\x00\x00\x04\x00\x01\x00\x01"))
			served := true
			for r := codec.NewReader(c.r, nil); ; {
				p, err := r.Next()
				if err != nil {
					t.Fatalf("%d/%d: %v", main, sub, err)
				}
				if p.Main == engine.SystemMain && p.Sub == engine.SubError && binary.BigEndian.Uint16(p.Body) == uint16(engine.CodeUnknownHandle) {
					served = false
				}
				if p.Main == 1 && p.Sub == 1 {
					break
				}
			}
			c.Close()
			if served {
				known[fmt.Sprintf("%d/%d", main, sub)] = true
			}
		}
	}
	known["1/9"] = true
	reference := page(t, "docs/reference.md")
	for h := range known {
		if !regexp.MustCompile(`\b` + h + `\b`).MatchString(reference) {
			t.Errorf("docs/reference.md lacks the handle %s", h)
		}
	}
	for _, name := range manual(t) {
		for _, m := range regexp.MustCompile(`(?:^|[ (|])([0-7]/[0-9]{1,2})(?:[ ,.;:)]|$)`).FindAllStringSubmatch(prose(t, name), -1) {
			if !known[m[1]] && m[1] != "0/0" && strings.HasPrefix(name, "docs/") {
				t.Errorf("%s: there is no handle %s", name, m[1])
			}
		}
	}
}

// The protocol page has each ERROR code by its number and name, and the exit codes' page
// each code that the command has.
func TestTheDocsHaveAllCodes(t *testing.T) {
	protocol := page(t, "docs/protocol.md")
	for c := engine.CodeBadFrame; c.String() != fmt.Sprint(uint16(c)); c++ { // one without a name is none
		if !strings.Contains(protocol, fmt.Sprintf("| %d | `%s` |", uint16(c), c)) {
			t.Errorf("docs/protocol.md lacks the ERROR code %d %s", uint16(c), c)
		}
	}
	codes := page(t, "docs/exit-codes.md")
	for _, c := range []int{exitOK, exitError, exitLoss, exitUsage, exitNoServer, exitFailed, exitTimeout, exitProtocol, exitSignal + 2, exitSignal + 15} {
		if !regexp.MustCompile(fmt.Sprintf(`(?m)^\| (\d+, )?%d(, \d+)? \|`, c)).MatchString(codes) {
			t.Errorf("docs/exit-codes.md lacks %d", c)
		}
	}
}

// Every flag that limits how much there may be shows how much there is, in metrics that name
// it alike.
func TestEveryLimitShowsHowMuchIsUsed(t *testing.T) {
	without := map[string]string{
		"max-frame":           "of one frame",
		"max-session-timers":  "of what a session's services have: refusals are counted",
		"max-delayed":         "the same",
		"max-session-keys":    "the same",
		"max-session-locks":   "the same",
		"db-slow-queue":       "the same",
		"max-cluster-work":    "there is no cluster: /cluster has it",
		"max-rooms":           "the same",
		"max-takeovers":       "the same; what is refused is counted as busy",
		"max-moved":           "there is no cluster: shown in one",
		"takeover-bytes":      "of one session: what is refused is counted as too_large",
		"record-bodies-queue": "nothing is recorded: it has counters of its own",
	}
	s := serve(t, "--admin=127.0.0.1:0", "--db=postgres://127.0.0.1:1/x", "--resume=30s", "--max-conns-per-ip=50")
	c := s.dial()
	c.write([]byte("\x00\x00\x00\x05\x00\x01\x00\x01x"))
	c.recv()
	text := metrics(t, s)
	for _, want := range []string{`limit_used{limit="max_conns_per_ip"} 1`, `limit_max{limit="max_conns_per_ip"} 50`, `limit_max{limit="resume_bytes"} 262144`} {
		if !strings.Contains(text, "\nmillrace_"+want+"\n") {
			t.Errorf("the metrics lack %s", want)
		}
	}
	config, _, _ := millrace(t, nil, "", "serve", "--print-config")
	limits := regexp.MustCompile(`^(max-.*|.*-queue|.*-bytes|memory-budget|spare-workers|admin-clients)$`)
	seen := 0
	for _, line := range strings.Split(config, "\n") {
		name, _, _ := strings.Cut(line, " = ")
		if !limits.MatchString(name) {
			continue
		}
		seen++
		label := `{limit="` + strings.ReplaceAll(name, "-", "_") + `"} `
		shown := strings.Contains(text, "millrace_limit_used"+label) && strings.Contains(text, "millrace_limit_max"+label)
		if _, ok := without[name]; shown == ok {
			t.Errorf("--%s: shown %v, expected %v", name, shown, !ok)
		}
	}
	if seen < 20 {
		t.Errorf("%d flags are limits, want 20 or more", seen)
	}
	for _, m := range regexp.MustCompile(`millrace_limit_near_total\{limit="(\w+)"\}`).FindAllStringSubmatch(text, -1) {
		if m[1] != "open_files" && m[1] != "max_frame" && !strings.Contains(text, `millrace_limit_used{limit="`+m[1]+`"} `) {
			t.Errorf("%s is near and not used", m[1])
		}
	}
}
