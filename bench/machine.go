package bench

import (
	"bytes"
	"os/exec"
	"runtime"
	"runtime/debug"
	"time"
)

// Machine describes the machine of a run.
type Machine struct {
	CPU    string `json:"cpu"`
	CPUs   int    `json:"cpus"`
	Memory int64  `json:"memory"` // bytes
	Kernel string `json:"kernel"`
	Go     string `json:"go"`
}

// Header is the first line of a results file.
type Header struct {
	Format  int       `json:"format"` // resultFormat
	At      time.Time `json:"at"`
	Machine Machine   `json:"machine"`
	Commit  string    `json:"commit"` // of the suite's binary, or of the checkout around it; "" when unknown
	Seconds float64   `json:"seconds"`
	Warm    float64   `json:"warm"`
	Reps    int       `json:"reps"`
	Pinned  bool      `json:"pinned,omitempty"`
	Base    string    `json:"base,omitempty"` // the target that ratios refer to
	Targets []Target  `json:"targets"`
	Cases   []string  `json:"cases"`
	Ramps   []Ramp    `json:"ramps,omitempty"`
}

const resultFormat = 1

func thisMachine() Machine {
	m := Machine{CPUs: runtime.NumCPU(), Kernel: runtime.GOOS, Go: runtime.Version()}
	describeMachine(&m)
	return m
}

// commit is the revision this binary was built from, or the one of the checkout in which it runs.
func commit() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		rev, dirty := "", ""
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision":
				rev = s.Value
			case s.Key == "vcs.modified" && s.Value == "true":
				dirty = "+"
			}
		}
		if rev != "" {
			return rev[:min(12, len(rev))] + dirty
		}
	}
	out, err := exec.Command("git", "rev-parse", "--short=12", "HEAD").Output()
	if err != nil {
		return ""
	}
	return string(bytes.TrimSpace(out))
}
