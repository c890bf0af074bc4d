package hostile

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

var (
	long   = flag.Bool("long", false, "more clients and more rounds, and memory is looked at 60 s after a load")
	seed   = flag.Int64("seed", 0, "seed of the model's first round; 0 takes one from the clock")
	rounds = flag.Int("rounds", 0, "rounds of the model; 0 is 2, or 12 with -long")

	command string // path of the command under test
)

// TestMain builds the command once, never with the race detector: that one's memory is
// not the server's.
func TestMain(m *testing.M) {
	flag.Set("test.parallel", "8") // they wait most of the time
	flag.Parse()
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "hostile:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	if command = os.Getenv("MILLRACE_BINARY"); command != "" {
		return m.Run(), nil
	}
	dir, err := os.MkdirTemp("", "hostile")
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
