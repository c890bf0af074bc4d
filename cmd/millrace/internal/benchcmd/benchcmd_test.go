package benchcmd

import (
	"bytes"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"

	"millrace/bench"
)

// peersBin is where the peers are built, once.
var peersBin string

func TestMain(m *testing.M) {
	bench.RunGenerator()
	dir, err := os.MkdirTemp("", "benchcmd-peers-")
	if err != nil {
		panic(err)
	}
	peersBin = dir
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

type cli struct {
	Bench Bench `cmd:""`
	Tune  Tune  `cmd:""`
}

// execute runs a command line and returns its output, remarks and exit code.
func execute(t *testing.T, args ...string) (string, string, int) {
	t.Helper()
	var c cli
	parser, err := kong.New(&c, kong.Exit(func(int) {}))
	if err != nil {
		t.Fatal(err)
	}
	ctx, err := parser.Parse(args)
	if err != nil {
		return "", err.Error(), exitUsage
	}
	var out, remarks bytes.Buffer
	err = ctx.Run(&Streams{Out: &out, Err: &remarks})
	if err == nil {
		return out.String(), remarks.String(), 0
	}
	var coded interface{ ExitCode() int }
	if !errors.As(err, &coded) {
		return out.String(), err.Error(), -1
	}
	return out.String(), err.Error(), coded.ExitCode()
}

// measured is execute with a window, longer where the machine stood still for all of one.
func measured(t *testing.T, args ...string) (out, remarks string, code int) {
	t.Helper()
	for _, window := range []string{"60ms", "400ms", "2s"} {
		out, remarks, code = execute(t, append(args, "--window", window)...)
		if !strings.Contains(out+remarks, "no message in ") {
			break
		}
	}
	return out, remarks, code
}

// stdPeer is the command of the peer std, built from the checkout.
func stdPeer(t *testing.T) string {
	t.Helper()
	src, err := bench.FindPeers("", peersBin)
	if err != nil {
		t.Fatal(err)
	}
	target, err := src.Target(t.Context(), "std")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(target.Command, " ")
}

func TestMeasureReportAndCompare(t *testing.T) {
	command := stdPeer(t)
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	out, remarks, code := measured(t, "bench", "--no-self", "--server", "one="+command, "--server", "two="+command, "--case", "echo/5x2,churn/2",
		"--reps", "3", "--warm", "10ms", "--slo", "p99<1h", "--json", file("a.json"), "--report", file("a.html"), "--svg", file("a.svg"))
	if code != 0 || !strings.Contains(out, "echo/5x2") || !strings.Contains(out, "x two") {
		t.Fatalf("exit %d: %s\n%s", code, remarks, out)
	}
	if !strings.Contains(remarks, "[12/12] ") || !strings.Contains(remarks, " left] ") {
		t.Errorf("the progress lacks its last line:\n%s", remarks)
	}
	for name, want := range map[string]string{"a.json": `"case":"churn/2"`, "a.html": "<!doctype html>", "a.svg": "<svg"} {
		if b, err := os.ReadFile(file(name)); err != nil || !strings.Contains(string(b), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if out, remarks, code := execute(t, "bench", "compare", file("a.json"), file("a.json")); code != 0 || !strings.Contains(out, string(bench.Same)) {
		t.Errorf("a file against itself: exit %d: %s\n%s", code, remarks, out)
	}
	if _, remarks, code := measured(t, "bench", "--no-self", "--server", "one="+command, "--case", "echo/2", "--reps", "1", "--slo", "rate>1e12"); code != exitVerdict {
		t.Errorf("a missed condition: exit %d: %s", code, remarks)
	}
}

func TestAWorseFileEndsWithOne(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, cost float64) string {
		r := &bench.Results{Header: bench.Header{Format: 1, At: time.Now(), Targets: []bench.Target{{Name: "x"}}, Cases: []string{"echo/1x1"}, Reps: 5}}
		for rep := range 5 {
			r.Runs = append(r.Runs, bench.Run{Case: "echo/1x1", Target: "x", Rep: rep, CPU: &bench.CPU{PerMessage: cost + float64(rep)/50}})
		}
		path := filepath.Join(dir, name)
		if err := writeFile(path, r.WriteJSON); err != nil {
			t.Fatal(err)
		}
		return path
	}
	before, after := write("before", 9), write("after", 14)
	if out, _, code := execute(t, "bench", "compare", before, after); code != exitVerdict || !strings.Contains(out, string(bench.Slower)) {
		t.Errorf("worse: exit %d\n%s", code, out)
	}
	if out, _, code := execute(t, "bench", "compare", after, before); code != 0 || !strings.Contains(out, string(bench.Faster)) {
		t.Errorf("better: exit %d\n%s", code, out)
	}
}

func TestWrongUsageSaysSo(t *testing.T) {
	for _, args := range [][]string{
		{"bench", "--case", "nonsense/1"},
		{"bench", "--no-self"},
		{"bench", "--pid", "1"},
		{"bench", "--slo", "p98<1"},
		{"bench", "--server", "nameless"},
		{"bench", "--server", "x='"},
		{"bench", "--variant", "x"},
		{"bench", "--reps", "-3"},
		{"bench", "--no-self", "--server", "x=y", "--base", "z"},
		{"bench", "--no-self", "--peers", "gnet", "--peers-dir", "/nonexistent"},
		{"bench", "compare", "/nonexistent"},
		{"bench", "--no-self", "--server", "x=y", "--ramp", "5"},
		{"bench", "--no-self", "--server", "x=y", "--ramp", "1..5", "--case", "broadcast/5"},
		{"bench", "--no-self", "--server", "x=y", "--resume"},
		{"bench", "--no-self", "--server", "x=y", "--resume", "--json", "/dev/null"},
		{"bench", "--target", ""},
		{"bench", "--target", "127.0.0.1"},
		{"bench", "--target", "127.0.0.1:70000"},
		{"bench", "--target", "127.0.0.1:1", "--pid", "2147483647"},
		{"bench", "--no-self", "--server", "x=/nonexistent"},
		{"bench", "--json", "/nonexistent/x"},
		{"bench", "--report", "/nonexistent/x"},
		{"bench", "--svg", "/nonexistent/x"},
		{"tune", "--config", "/nonexistent/x"},
		{"tune", "--case", "idle/5"},
		{"tune", "--case", "x"},
		{"tune", "--try", "loops"},
		{"tune", "--serve", "loops"},
	} {
		if out, remarks, code := execute(t, args...); code != exitUsage {
			t.Errorf("%v: exit %d, want %d: %s %s", args, code, exitUsage, remarks, out)
		}
	}
}

// Where no server answers, one line says so, and nothing is measured.
func TestAServerThatIsNotThereIsNotMeasured(t *testing.T) {
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	go func() {
		for {
			c, err := other.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
			defer c.Close()
		}
	}()
	for _, c := range []struct{ addr, want string }{
		{"127.0.0.1:1", "connection refused"},
		{"unix:///nonexistent/socket", "no such file"},
		{"ws://127.0.0.1:1/ws", "connection refused"},
		{"tcp://" + mute.Addr().String(), "no answer within "},
		{other.Addr().String(), "which is no frame"},
	} {
		out, remarks, code := execute(t, "bench", "--target", c.addr)
		if code != exitNoServer || out != "" || !strings.HasPrefix(remarks, "--target "+c.addr+": ") || !strings.Contains(remarks, c.want) || strings.Contains(remarks, "\n") {
			t.Errorf("--target %s: exit %d: %q\n%s", c.addr, code, remarks, out)
		}
	}
}

func TestAFailingServerEndsWithOne(t *testing.T) {
	out, remarks, code := execute(t, "bench", "--no-self", "--server", "x=/bin/false", "--case", "echo/2", "--reps", "1", "--window", "60ms")
	if code != exitVerdict || !strings.Contains(out, "FAILED") {
		t.Errorf("exit %d: %s\n%s", code, remarks, out)
	}
}

func TestAStoredFileGivesTheSameReport(t *testing.T) {
	command := stdPeer(t)
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	args := []string{"bench", "--no-self", "--server", "one=" + command, "--server", "two=" + command, "--case", "echo/5x2,echo/3@50%",
		"--reps", "2", "--window", "60ms", "--warm", "10ms", "--json", file("a.jsonl"), "--report", file("a.html"), "--svg", file("a.svg")}
	first, remarks, code := execute(t, args...)
	if code != 0 || !strings.Contains(remarks, "8 runs, about ") || !strings.Contains(first, "Latency at a fixed rate") {
		t.Fatalf("exit %d: %s\n%s", code, remarks, first)
	}
	again, remarks, code := execute(t, "bench", "report", file("a.jsonl"), "--html", file("b.html"), "--svg", file("b.svg"))
	if code != 0 || again != first {
		t.Errorf("exit %d: %s: got\n%s\nwant\n%s", code, remarks, again, first)
	}
	for _, kind := range []string{"html", "svg"} {
		a, errA := os.ReadFile(file("a." + kind))
		b, errB := os.ReadFile(file("b." + kind))
		if err := errors.Join(errA, errB); err != nil || !bytes.Equal(a, b) {
			t.Errorf("the %s of the stored file is another one: %v", kind, err)
		}
	}
	if out, remarks, code := execute(t, "bench", "report", file("a.jsonl"), "--markdown", "--base", "one"); code != 0 || !strings.Contains(out, "| x one |") {
		t.Errorf("as Markdown: exit %d: %s\n%s", code, remarks, out)
	}
	for _, bad := range [][]string{{"bench", "report", file("none")}, {"bench", "report", file("a.html")}, {"bench", "report", file("a.jsonl"), "--base", "x"}} {
		if _, _, code := execute(t, bad...); code != exitUsage {
			t.Errorf("%v: exit %d", bad, code)
		}
	}
	resumed, remarks, code := execute(t, append(args, "--resume")...)
	if code != 0 || resumed != first || strings.Contains(remarks, "[8/8]") {
		t.Errorf("a whole file was measured again: exit %d: %s", code, remarks)
	}
	cut := strings.SplitAfter(string(readFile(t, file("a.jsonl"))), "\n")
	if err := os.WriteFile(file("a.jsonl"), []byte(strings.Join(cut[:len(cut)-3], "")), 0o644); err != nil { // two runs less
		t.Fatal(err)
	}
	if _, remarks, code := execute(t, append(args, "--resume")...); code != 0 || strings.Count(remarks, "\n[") != 2 {
		t.Errorf("two runs were missing: exit %d: %s", code, remarks)
	}
	if n := bytes.Count(readFile(t, file("a.jsonl")), []byte("\n")); n != len(cut)-1 {
		t.Errorf("the file has %d lines, want %d", n, len(cut)-1)
	}
	if left, _ := filepath.Glob(file("*.new")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRampsOfTheCommandLine(t *testing.T) {
	command := stdPeer(t)
	args := []string{"bench", "--no-self", "--server", "one=" + command, "--case", "echo/4", "--reps", "1", "--window", "60ms", "--warm", "10ms"}
	out, remarks, code := execute(t, append(args, "--ramp", "200..400/200", "--ramp", "conns=1..2")...)
	if code != 0 || !strings.Contains(out, "Ramp echo/4x1 rate=200..400/200") || !strings.Contains(out, "Ramp echo/1x1 conns=1..2/x2") {
		t.Errorf("exit %d: %s\n%s", code, remarks, out)
	}
	out, _, code = execute(t, append(args, "--ramp", "200..400/200", "--slo", "cpu<1ns")...)
	if code != exitVerdict || !strings.Contains(out, "200/s was too much (cpu<1ns broken") {
		t.Errorf("a condition that never holds: exit %d\n%s", code, out)
	}
}
