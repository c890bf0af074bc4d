package soak

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

var (
	length = flag.Duration("soak", 6*time.Second, "how long the clients are at it, in all lives of the server together")
	seed   = flag.Uint64("seed", 0, "what is drawn, and so who does what; 0 takes one from the clock")
	output = flag.String("report", "", "write the report there too, as JSON")

	command string // path of the command under test
)

// TestMain builds the command, never with the race detector: that one's memory is not the
// server's.
func TestMain(m *testing.M) {
	flag.Parse()
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	if command = os.Getenv("MILLRACE_BINARY"); command != "" {
		return m.Run(), nil
	}
	dir, err := os.MkdirTemp("", "soak")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	command = filepath.Join(dir, "millrace")
	if out, err := exec.Command("go", "build", "-o", command, "millrace/cmd/millrace").CombinedOutput(); err != nil {
		return 0, fmt.Errorf("go build: %w\n%s", err, out)
	}
	return m.Run(), nil
}
