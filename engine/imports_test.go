package engine

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const internalDir = "millrace/engine/internal/"

// alone are the layers that stand on no other one.
var alone = []string{"sched", "dispatch", "registry", "perip", "flight"}

// netModules are the modules that only engine/internal/gnetio may import, and reachesOut the
// packages that do so beside it.
var (
	netModules = []string{"github.com/panjf2000/gnet", "golang.org/x/sys"}
	reachesOut = []string{"millrace/engine"}
)

// The layers below the engine import nothing that stands above them, those that stand
// alone nothing of the others, and one package knows the network library.
func TestLayersImportDownwards(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, "millrace/engine/...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	seen := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		pkg, imports := words[0], words[1:]
		layer, below := strings.CutPrefix(pkg, internalDir)
		seen[layer] = true
		for _, i := range imports {
			if below && i == "millrace/engine" {
				t.Errorf("%s imports the engine", pkg)
			}
			if slices.Contains(alone, layer) && strings.HasPrefix(i, internalDir) {
				t.Errorf("%s imports %s", pkg, i)
			}
			if layer != "gnetio" && !slices.Contains(reachesOut, pkg) && slices.ContainsFunc(netModules, func(p string) bool { return strings.HasPrefix(i, p) }) {
				t.Errorf("%s imports %s: only gnetio may", pkg, i)
			}
		}
	}
	for _, layer := range alone {
		if !seen[layer] {
			t.Errorf("no package %s%s", internalDir, layer)
		}
	}
}
