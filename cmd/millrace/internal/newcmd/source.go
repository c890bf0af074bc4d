package newcmd

import (
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
)

const thisPackage = "/cmd/millrace/internal/newcmd"

// modulePath returns the path of the module that this package belongs to.
func modulePath() string {
	return strings.TrimSuffix(reflect.TypeFor[New]().PkgPath(), thisPackage)
}

// source returns the folder of the module's source: the one given, else the one that this program
// was compiled in (unless with -trimpath), else one around the program or the current folder.
func (c *New) source(module string) (string, error) {
	if c.Millrace != "" {
		dir, err := filepath.Abs(c.Millrace)
		if err == nil && isModule(dir, module) {
			return dir, nil
		}
		return "", usage("--millrace %q: no source of module %s there; give the folder of its go.mod", c.Millrace, module)
	}
	var tries []string
	if _, file, _, ok := runtime.Caller(0); ok && filepath.IsAbs(file) {
		tries = append(tries, filepath.Dir(file))
	}
	if exe, err := os.Executable(); err == nil {
		if real, err := filepath.EvalSymlinks(exe); err == nil {
			exe = real
		}
		tries = append(tries, filepath.Dir(exe))
	}
	if wd, err := os.Getwd(); err == nil {
		tries = append(tries, wd)
	}
	for _, dir := range tries {
		for ; ; dir = filepath.Dir(dir) {
			if isModule(dir, module) {
				return dir, nil
			}
			if dir == filepath.Dir(dir) {
				break
			}
		}
	}
	return "", usage("can't find the source of module %s; give its folder with --millrace", module)
}

// isModule reports whether dir has the go.mod of a module.
func isModule(dir, module string) bool {
	b, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "module "); ok {
			return strings.Trim(strings.TrimSpace(name), `"`) == module
		}
	}
	return false
}
