package bench

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// Dimension is one flag of serve and the values to try.
type Dimension struct {
	Flag   string // without the dashes
	Values []string
}

// Space returns the flags that can matter for these workloads, with values for this machine.
func Space(works []Workload) []Dimension {
	has := func(f func(Workload) bool) bool { return slices.ContainsFunc(works, f) }
	kind := func(ks ...Kind) bool { return has(func(w Workload) bool { return slices.Contains(ks, w.Kind) }) }
	cpus := runtime.GOMAXPROCS(0)
	blocking := kind(Sleep, Database, Mixed)
	fan := kind(Broadcast, Groups, Mixed)
	space := []Dimension{
		{"loops", powers(1, cpus)},
		{"dispatch", []string{"adaptive", "ordered", "inline"}},
	}
	if has(func(w Workload) bool { return w.Body*max(1, w.Depth) >= 4<<10 }) {
		space = append(space, Dimension{"read-buffer", []string{"16KiB", "64KiB", "128KiB", "256KiB"}})
	}
	if blocking {
		space = append(space, Dimension{"workers", powers(cpus, 32*cpus)}, Dimension{"spare-workers", []string{"64", "256", "1024"}})
	}
	if kind(Sleep) {
		space = append(space, Dimension{"handle-dispatch", []string{"1/4=ordered", "1/4=inline"}})
	}
	if fan {
		space = append(space, Dimension{"drain-budget", []string{"16", "64", "256", "1024"}})
	}
	if kind(Churn) {
		space = append(space, Dimension{"accept", []string{"reuseport", "single"}})
	}
	if kind(Database, Mixed) {
		space = append(space, Dimension{"db-lanes", powers(1, 8)}, Dimension{"db-burst", []string{"16", "64", "256"}})
	}
	return space
}

// powers are lo, 2lo, 4lo… up to hi, every second one when there are many.
func powers(lo, hi int) []string {
	step := 2
	if hi/lo > 16 {
		step = 4
	}
	var out []string
	for n := lo; n <= hi; n *= step {
		out = append(out, strconv.Itoa(n))
	}
	return out
}

// serveFlags lists the flags that the binary's serve knows, with the default that its help names.
func serveFlags(ctx context.Context, binary string) (map[string]string, error) {
	out, err := exec.CommandContext(ctx, binary, "serve", "--help").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("bench: %s serve --help: %w: %s", binary, err, lastLines(out))
	}
	return parseHelp(string(out)), nil
}

var (
	helpFlag    = regexp.MustCompile(`(?m)^ +(?:-\w, )?--([a-z][a-z0-9-]*)`)
	helpDefault = regexp.MustCompile(`\(([^()]*)\)\.`)
)

// parseHelp parses flags and, if the help ends in "(VALUE).", their defaults.
func parseHelp(help string) map[string]string {
	flags := map[string]string{}
	places := helpFlag.FindAllStringSubmatchIndex(help, -1)
	for i, p := range places {
		end := len(help)
		if i+1 < len(places) {
			end = places[i+1][0]
		}
		name, text := help[p[2]:p[3]], strings.Join(strings.Fields(help[p[1]:end]), " ")
		flags[name] = ""
		if d := helpDefault.FindAllStringSubmatch(text, -1); d != nil {
			value := d[len(d)-1][1]
			if _, after, ok := strings.Cut(value, ": "); ok { // one per CPU: 2
				value = after
			}
			flags[name] = value
		}
	}
	return flags
}

// setting is a value for some flags.
type setting map[string]string

// parseSetting reads a command line of --flag value and --flag=value.
func parseSetting(args []string) (setting, error) {
	s := setting{}
	for i := 0; i < len(args); i++ {
		name, ok := strings.CutPrefix(args[i], "--")
		if !ok || name == "" {
			return nil, fmt.Errorf("bench: %q is not a flag", args[i])
		}
		if n, v, ok := strings.Cut(name, "="); ok {
			s[n] = v
			continue
		}
		if i+1 == len(args) || strings.HasPrefix(args[i+1], "--") {
			return nil, fmt.Errorf("bench: --%s has no value", name)
		}
		i++
		s[name] = args[i]
	}
	return s, nil
}

// args writes s as flags, sorted by name.
func (s setting) args() []string {
	var out []string
	for _, name := range s.names() {
		out = append(out, "--"+name+"="+s[name])
	}
	return out
}

func (s setting) names() []string {
	names := make([]string, 0, len(s))
	for n := range s {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

func (s setting) String() string {
	if len(s) == 0 {
		return "as it is"
	}
	return strings.Join(s.args(), " ")
}

// with returns s and one more value.
func (s setting) with(flag, value string) setting {
	out := setting{flag: value}
	for n, v := range s {
		if n != flag {
			out[n] = v
		}
	}
	return out
}

// without returns s less one flag.
func (s setting) without(flag string) setting {
	out := setting{}
	for n, v := range s {
		if n != flag {
			out[n] = v
		}
	}
	return out
}
