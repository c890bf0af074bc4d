package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What a session did before its handler panicked is in the log, frames and all.
func TestServeLogsWhatABadSessionDid(t *testing.T) {
	s := serve(t, "--recorder=errors", "--unsafe-demo", "--dispatch=ordered")
	c := s.dial()
	c.echo("first")
	c.send(1, 9, "")
	c.wantError(6, 1, 9)
	c.wantEnd()
	s.stop()
	log := s.log()
	for _, want := range []string{"what a session did last", "why=panic", "in 1/1, 13 bytes", "in 1/9, 8 bytes", "panic 1/9", "close panic"} {
		if !strings.Contains(log, want) {
			t.Errorf("no %q in the log:\n%s", want, log)
		}
	}
}

// What serve records, replay plays: with the same answers against the same server, in every
// speed, and with a word for each that differs.
func TestReplayPlaysWhatServeRecords(t *testing.T) {
	file := filepath.Join(t.TempDir(), "traffic.pcapng")
	s := serve(t, "--record-bodies", file, "--unsafe-demo")
	for range 3 {
		c := s.dial()
		c.echo("hello")
		c.send(4, 3, `{"a":1,"b":2}`)
		c.want(4, 3, `{"sum":3}`)
		c.send(9, 9, "")
		c.wantError(2, 9, 9)
		c.send(1, 9, "")
		c.wantError(6, 1, 9)
		c.wantEnd()
	}
	s.stop()
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("got %v, %v", info.Mode(), err)
	}
	if !strings.Contains(s.log(), "recorded") {
		t.Errorf("the log does not say what was recorded: %s", s.log())
	}
	same := serve(t, "--unsafe-demo")
	for _, speed := range []string{"1", "50", "max"} {
		out, stderr, code := millrace(t, nil, "", "replay", file, "--addr", same.ready[0], "--speed", speed, "--wait=20s")
		if code != 0 || !strings.Contains(out, "3 sessions, 12 requests") || !strings.Contains(out, "12 recorded, 12 received") {
			t.Errorf("--speed %s: exit code %d, %s%s", speed, code, out, stderr)
		}
	}
	other := serve(t) // 1/9 is ERROR 2 there, and the session goes on
	out, stderr, code := millrace(t, nil, "", "replay", file, "--addr", other.ready[0], "--json", "--wait=300ms")
	var r struct {
		Differ      int
		Differences []struct {
			Answer    string
			Want, Got int
		}
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatal(err, out)
	}
	if code != exitError || r.Differ != 3 || len(r.Differences) != 6 || !strings.Contains(stderr, "3 of 3 sessions got answers that differ") {
		t.Errorf("exit code %d, %+v, %s", code, r, stderr)
	}
}

// Several files are one recording: a rotated one, by its files or by its folder.
func TestReplayPlaysSeveralFiles(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "traffic.pcapng")
	for run := range 2 { // what the first run has recorded becomes FILE.1
		s := serve(t, "--record-bodies", file)
		for range run + 1 {
			c := s.dial()
			c.echo("hello")
			c.send(9, 9, "")
			c.wantError(2, 9, 9)
			c.Close()
		}
		s.stop()
	}
	if err := os.WriteFile(filepath.Join(dir, "notes"), []byte("what this is"), 0o600); err != nil {
		t.Fatal(err)
	}
	same := serve(t)
	for _, args := range [][]string{{file, file + ".1"}, {dir}} {
		out, stderr, code := millrace(t, nil, "", append([]string{"replay", "--addr", same.ready[0], "--speed=max", "--wait=20s"}, args...)...)
		if code != 0 || !strings.Contains(out, "3 sessions, 6 requests") || !strings.Contains(out, "6 recorded, 6 received") || !strings.Contains(out, "2 files, the first "+file+".1, the last "+file) {
			t.Errorf("%v: exit code %d, %s%s", args, code, out, stderr)
		}
	}
}

func TestAWrongRecordingIsOneLine(t *testing.T) {
	text := filepath.Join(t.TempDir(), "diary")
	if err := os.WriteFile(text, []byte("dear diary"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		want string
		code int
	}{
		{[]string{"serve", "--record-bodies", text}, `--record-bodies "` + text + `": capture: ` + text + ` exists and is not a recording: move it away, or give another name`, exitUsage},
		{[]string{"serve", "--record-bodies", "x", "--record-bodies-limit=1KiB"}, `--record-bodies-limit 1KiB: must be at least 256KiB`, exitUsage},
		{[]string{"serve", "--record-bodies", "x", "--record-bodies-queue=1KiB"}, `--record-bodies-queue 1KiB: must be at least 64KiB`, exitUsage},
		{[]string{"serve", "--recorder=sometimes"}, `--recorder "sometimes": must be one of off, errors, on`, exitUsage},
		{[]string{"serve", "--recorder-keep=100000"}, `--recorder-keep 100000: must be 1 to 65536`, exitUsage},
		{[]string{"replay", text, "--addr", "127.0.0.1:1"}, `capture: not a recording: it does not begin as pcapng`, exitUsage},
		{[]string{"replay", text + "x", "--addr", "127.0.0.1:1"}, `no such file`, exitUsage},
		{[]string{"replay", filepath.Dir(text), "--addr", "127.0.0.1:1"}, `no file in it is one`, exitUsage},
		{[]string{"replay", text, "--addr", "127.0.0.1:1", "--speed=fast"}, `--speed "fast": must be a factor of 0.001 to 1000000, such as 1 or 10, or max`, exitUsage},
	} {
		_, stderr, code := millrace(t, nil, "", c.args...)
		if code != c.code || !strings.Contains(stderr, c.want) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%v: exit code %d, %q, want %q", c.args, code, stderr, c.want)
		}
	}
	if b, _ := os.ReadFile(text); string(b) != "dear diary" {
		t.Error("the file was touched")
	}
}
