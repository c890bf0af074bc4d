package main

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"
	"github.com/alecthomas/kong"

	"millrace/cmd/millrace/internal/topcmd"

	"millrace/internal/mask"
	"millrace/internal/userfile"
)

const envPrefix = "MILLRACE_"

// sources gives serve's flags their values from the environment and the config file. It is a
// kong.Resolver, called only for flags that the command line does not set.
type sources struct {
	environ []string
	loaded  bool
	path    string // of the file; "" for none
	env     map[string]string
	file    map[string]any
	found   map[string]string // flag to the place that its value came from
}

// Validate implements kong.Resolver. load has already checked the names.
func (s *sources) Validate(*kong.Application) error { return nil }

// Resolve implements kong.Resolver. A nil value means the flag's default.
func (s *sources) Resolve(ctx *kong.Context, parent *kong.Path, flag *kong.Flag) (any, error) {
	if parent.Command == nil || parent.Command.Name != "serve" {
		return nil, nil
	}
	if !s.loaded {
		s.loaded = true
		if err := s.load(ctx, parent.Command); err != nil {
			return nil, err
		}
	}
	if v, ok := s.env[flag.Name]; ok {
		s.found[flag.Name] = envName(flag.Name)
		if isList(flag) {
			return list(strings.Split(v, ",")), nil
		}
		return v, nil
	}
	if v, ok := s.file[flag.Name]; ok {
		s.found[flag.Name] = s.path
		return text(flag, v)
	}
	return nil, nil
}

// from returns, for an error message, where a flag's value came from.
func (s *sources) from(flag string) string {
	if place := s.found[flag]; place != "" {
		return " (from " + place + ")"
	}
	return ""
}

// load reads the environment, and the file named by --config or by the environment.
func (s *sources) load(ctx *kong.Context, serve *kong.Node) error {
	s.found = map[string]string{}
	var names []string
	for _, f := range serve.Flags {
		names = append(names, f.Name)
		if f.Name == "config" {
			s.path, _ = ctx.FlagValue(f).(string)
		}
	}
	if err := s.loadEnv(names); err != nil {
		return err
	}
	if s.path == "" {
		s.path = s.env["config"]
	}
	if s.path == "" {
		return nil
	}
	return s.loadFile(slices.DeleteFunc(names, func(n string) bool { return n == "config" || n == "print-config" }))
}

func (s *sources) loadEnv(names []string) error {
	s.env = map[string]string{}
	for _, kv := range s.environ {
		k, v, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(k, envPrefix) || k == topcmd.TokenEnv { // TokenEnv is for other commands
			continue
		}
		i := slices.IndexFunc(names, func(n string) bool { return envName(n) == k })
		if i < 0 {
			return &sourceError{fmt.Sprintf("no setting has the name %s%s", k, hint(k, names, envName))}
		}
		s.env[names[i]] = v
	}
	return nil
}

func (s *sources) loadFile(names []string) error {
	b, err := userfile.Read(s.path, maxConfig)
	if err != nil {
		return &sourceError{fmt.Sprintf("--config %q: %v", s.path, err)}
	}
	if deep().Match(b) {
		return &sourceError{fmt.Sprintf("--config %q: a key of more than %d parts; is it the right file?", s.path, maxParts)}
	}
	if err := toml.Unmarshal(b, &s.file); err != nil {
		return &sourceError{fmt.Sprintf("--config %q: %s", s.path, strings.TrimPrefix(err.Error(), "toml: "))}
	}
	keys := make([]string, 0, len(s.file))
	for k := range s.file {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		if !slices.Contains(names, k) {
			return &sourceError{fmt.Sprintf("--config %q: %s: no setting has this name%s", s.path, k, hint(k, names, func(n string) string { return n }))}
		}
	}
	return nil
}

// sourceError is an error in the environment or the file that concerns no single flag.
type sourceError struct{ text string }

func (e *sourceError) Error() string { return e.text }

// envName returns the environment variable of a flag.
func envName(flag string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// open returns the name of the config file if it contains a secret and other users can read it;
// else "".
func (s *sources) open() string {
	if s.path == "" || runtime.GOOS == "windows" {
		return ""
	}
	info, err := os.Stat(s.path)
	if err != nil || info.Mode().Perm()&0o077 == 0 {
		return ""
	}
	for _, name := range []string{"db", "cluster"} {
		if v, ok := s.file[name].(string); ok && mask.Conn(v) != v {
			return s.path
		}
	}
	return ""
}

// text converts a value of the file to the form that it would have on the command line.
func text(flag *kong.Flag, v any) (any, error) {
	switch v := v.(type) {
	case string:
		if isList(flag) {
			return list([]string{v}), nil
		}
		return v, nil
	case int64:
		return strconv.FormatInt(v, 10), nil
	case bool:
		return strconv.FormatBool(v), nil
	case []any:
		var items []string
		for _, item := range v {
			s, ok := item.(string)
			if !ok {
				return nil, &valueError{flag.Name, fmt.Sprint(v), "must be a list of strings"}
			}
			items = append(items, s)
		}
		switch {
		case isList(flag) && len(items) > 0:
			return list(items), nil
		case isList(flag) && !flag.HasDefault:
			return nil, nil
		}
		return nil, &valueError{flag.Name, fmt.Sprint(items), "must be one value, or for a repeatable flag a list of at least one"}
	}
	return nil, &valueError{flag.Name, fmt.Sprint(v), "must be a string, a whole number or true or false"}
}

// isList reports whether a flag may be repeated.
func isList(flag *kong.Flag) bool {
	switch flag.Target.Interface().(type) {
	case addrs, routes, handleWaits, texts:
		return true
	default:
		return false
	}
}

// list joins the values of a repeated flag, one on each line, as its decoder expects them.
func list(items []string) string {
	for i := range items {
		items[i] = strings.TrimSpace(items[i])
	}
	return strings.Join(items, "\n")
}

// hint suggests the name closest to s, formatted by form.
func hint(s string, names []string, form func(string) string) string {
	best, at := "", max(3, len(strings.TrimPrefix(s, envPrefix))/3)
	for _, n := range names {
		if d := distance(s, form(n)); d < at {
			best, at = form(n), d
		}
	}
	if best == "" {
		return "; see millrace serve --help"
	}
	return "; did you mean " + best + "?"
}

// distance returns the number of bytes to insert, delete or change to turn a into b (Levenshtein
// distance).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
