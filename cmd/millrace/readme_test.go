package main

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

func readme(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestTheREADMEsDefaultsAreServes(t *testing.T) {
	config, _, code := millrace(t, nil, "", "serve", "--print-config")
	if code != 0 {
		t.Fatalf("--print-config: exit code %d", code)
	}
	rows := regexp.MustCompile("(?m)^\\| `--([a-z0-9-]+)` \\| ([^ ]+) \\|").FindAllStringSubmatch(readme(t), -1)
	if len(rows) < 15 {
		t.Fatalf("%d rows of limits, want 15 or more", len(rows))
	}
	for _, row := range rows {
		name, value := row[1], row[2]
		if !strings.Contains("\n"+config, "\n"+name+" = "+value+"\n") && !strings.Contains("\n"+config, "\n"+name+` = "`+value+"\"\n") {
			t.Errorf("the README says --%s is %s; --print-config says otherwise:\n%s", name, value, config)
		}
	}
	for _, line := range strings.Split(config, "\n") {
		name, _, _ := strings.Cut(line, " = ")
		if strings.HasPrefix(name, "max-") && !strings.Contains(readme(t), "`--"+name+"`") {
			t.Errorf("the README's table lacks --%s", name)
		}
	}
}

func TestTheREADMENamesFlagsThatAre(t *testing.T) {
	var help string
	for _, cmd := range [][]string{{"serve"}, {"call"}, {"replay"}, {"top"}, {"bench", "run"}, {"tune"}, {"admin", "x", "kick"}, {"admin", "x", "drain"}} {
		out, _, _ := millrace(t, nil, "", append(cmd, "--help")...)
		help += out
	}
	for _, flag := range regexp.MustCompile(`--[a-z0-9]+(-[a-z0-9]+)*`).FindAllString(readme(t), -1) {
		if !strings.Contains(help, flag) && !strings.Contains(help, "--[no-]"+flag[2:]) {
			t.Errorf("no command has a flag %s", flag)
		}
	}
}

// A row that stands by itself, behind an empty line, is shown as text.
func TestTheREADMEsRowsAreInTables(t *testing.T) {
	for _, block := range strings.Split(readme(t), "\n\n") {
		if lines := strings.SplitN(block, "\n", 3); strings.HasPrefix(block, "|") && (len(lines) < 3 || !strings.HasPrefix(lines[1], "| ---")) {
			t.Errorf("a table without a head: %.80s", block)
		}
	}
}

// The hello world of the README stands, line by line, in an example that is compiled
// and run.
func TestTheREADMEsHelloWorldIsShort(t *testing.T) {
	_, code, _ := strings.Cut(readme(t), "```go\n")
	code, _, _ = strings.Cut(code, "\n```")
	if n := strings.Count(code, "\n") + 1; n > 15 {
		t.Errorf("%d lines, want 15 or fewer", n)
	}
	example, err := os.ReadFile("../../engine/hello_example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(code, "\n") {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || strings.HasPrefix(line, "func main") || line == "log.Fatal(err)" || line == "<-srv.Done()":
		case !strings.Contains(string(example), strings.Replace(line, ":7000", ":0", 1)):
			t.Errorf("the example does not have the line %s", line)
		}
	}
}

// The commands of the README's "By hand" do what it says.
func TestTheREADMEsCalls(t *testing.T) {
	s := serve(t)
	calls := regexp.MustCompile(`(?m)^    \./millrace call 127\.0\.0\.1:7000 ([0-9/]+) '?(.+?)'?$`).FindAllStringSubmatch(readme(t), -1)
	if len(calls) < 2 {
		t.Fatalf("found %d calls", len(calls))
	}
	for _, c := range calls {
		out, stderr, code := millrace(t, nil, "", "call", s.ready[0], c[1], c[2])
		if code != 0 || !strings.HasPrefix(out, c[1]+" ") {
			t.Errorf("call %v: exit code %d, %q, %q", c[1:], code, out, stderr)
		}
	}
}
