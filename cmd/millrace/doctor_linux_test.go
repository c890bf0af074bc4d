package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"millrace/cmd/millrace/internal/doctor"
)

// Its exit code is 1 only where something is not fit, which a line on stderr says.
func TestDoctorsExitCode(t *testing.T) {
	root := t.TempDir()
	limits := filepath.Join(root, "proc", "self", "limits")
	if err := os.MkdirAll(filepath.Dir(limits), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(limits, []byte("Max open files            1024                 4096                 files\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	out, stderr, code := millrace(t, nil, "", "doctor", "--root", root, "--conns", "1000")
	if code != 0 || stderr != "" || !strings.Contains(out, "ok      open files: 4096") {
		t.Errorf("exit code %d, %q, %q", code, out, stderr)
	}
	out, stderr, code = millrace(t, nil, "", "doctor", "--root", root, "--conns", "5000")
	if code != 1 || strings.Count(stderr, "\n") != 1 || !strings.Contains(out, "fail    open files: 4096") || !strings.Contains(out, "LimitNOFILE=5064") {
		t.Errorf("exit code %d, %q, %q", code, out, stderr)
	}
	out, _, code = millrace(t, nil, "", "doctor", "--root", root, "--conns", "5000", "--json")
	var all []doctor.Finding
	if err := json.Unmarshal([]byte(out), &all); err != nil || code != 1 || len(all) == 0 || all[0].State != doctor.Fail || all[0].Found != "4096" {
		t.Errorf("exit code %d, %v: %s", code, err, out)
	}
}

func TestDoctorRefusesWhatThereIsNot(t *testing.T) {
	for args, want := range map[string]string{
		"--port 65536":        `--port "65536": must be 1 to 65535`,
		"--root /nonexistent": `--root "/nonexistent": has no proc`,
	} {
		out, stderr, code := millrace(t, nil, "", append([]string{"doctor"}, strings.Fields(args)...)...)
		if code != exitUsage || out != "" || !strings.Contains(stderr, want) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("doctor %s: exit code %d, %q, %q; want %d and one line with %q", args, code, out, stderr, exitUsage, want)
		}
	}
}

// This machine's own files can be read.
func TestDoctorReadsThisMachine(t *testing.T) {
	out, stderr, code := millrace(t, nil, "", "doctor", "--conns", "1", "--memory-budget", "1MiB")
	if code != 0 && code != 1 || strings.Contains(out, "unknown open files:") || !strings.Contains(out, "kernel: ") {
		t.Errorf("exit code %d, %q, %q", code, out, stderr)
	}
}
