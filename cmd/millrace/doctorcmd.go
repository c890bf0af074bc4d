package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"millrace/cmd/millrace/internal/doctor"
)

// doctorCmd is millrace doctor.
type doctorCmd struct {
	Conns        count  `default:"10000" placeholder:"N" help:"Number of connections that the server is meant to hold (${default})."`
	MemoryBudget size   `default:"256MiB" placeholder:"BYTES" help:"Its --memory-budget (${default})."`
	Port         count  `default:"7000" placeholder:"N" help:"The port that it listens on (${default})."`
	JSON         bool   `name:"json" help:"Print the findings as JSON (false)."`
	Root         string `default:"/" placeholder:"DIR" help:"Where /proc and /sys are (${default})."`
}

func (c *doctorCmd) run(stdout io.Writer) error {
	if runtime.GOOS != "linux" && c.Root == "/" {
		return exitf(exitUsage, "doctor supports only Linux, and this is %s", runtime.GOOS)
	}
	if c.Port > 65535 {
		return exitf(exitUsage, "--port \"%d\": must be 1 to 65535", c.Port)
	}
	if _, err := os.Stat(filepath.Join(c.Root, "proc")); err != nil {
		return exitf(exitUsage, "--root %q: has no proc; give the folder that has the machine's /proc and /sys", c.Root)
	}
	all := doctor.Run(c.Root, doctor.Want{Conns: int(c.Conns), Memory: int64(c.MemoryBudget), Port: int(c.Port)})
	print := printFindings
	if c.JSON {
		print = printJSON
	}
	if err := print(stdout, all); err != nil {
		return err
	}
	if doctor.Worst(all) == doctor.Fail {
		return exitf(exitError, "this machine is not fit for %d connections and a budget of %v: see fail", c.Conns, c.MemoryBudget)
	}
	return nil
}

func printFindings(w io.Writer, all []doctor.Finding) error {
	var b strings.Builder
	for _, f := range all {
		fmt.Fprintf(&b, "%-8s%s: %s\n", f.State, f.Check, f.Found)
		if f.Fix != "" {
			fmt.Fprintf(&b, "        %s\n        %s\n", f.Why, f.Fix)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func printJSON(w io.Writer, all []doctor.Finding) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(all)
}
