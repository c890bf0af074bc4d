package main

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// What each package may import beside the standard library, so that an embedder of one
// links nothing of the others. A prefix stands for what is below it.
var mayImport = map[string][]string{
	"millrace/codec":                  {},
	"millrace/timerwheel":             {"github.com/RussellLuo/timingwheel"},
	"millrace/dbasync":                {"github.com/jackc/pgx/v5", "millrace/internal/mask", "millrace/internal/seldom"},
	"millrace/dbasync/migrate":        {"github.com/jackc/pgx/v5", "millrace/internal/mask"},
	"millrace/dbasync/pgembed":        {},
	"millrace/engine":                 {"millrace/codec", "millrace/engine/internal", "millrace/internal/hist", "millrace/internal/tally"},
	"millrace/engine/enginetest":      {"millrace/codec", "millrace/engine", "github.com/gobwas/ws"},
	"millrace/engine/internal/netio":  {},
	"millrace/engine/internal/door":   {"millrace/engine/internal/netio", "millrace/engine/internal/budget", "millrace/engine/internal/perip", "github.com/gobwas/ws"},
	"millrace/engine/internal/gnetio": {"millrace/engine/internal/netio", "github.com/panjf2000/gnet/v2", "golang.org/x/sys"},
	"millrace/services/serial":        {"github.com/vmihailenco/msgpack/v5", "google.golang.org/protobuf"},
	"millrace/services":               {"millrace/codec", "millrace/engine", "millrace/timerwheel", "millrace/services/serial", "millrace/internal/hist", "millrace/internal/seldom"},
	"millrace/services/admin/live":    {"millrace/engine"},
	"millrace/services/admin/page":    {},
	"millrace/services/admin": {"millrace/services/admin/live", "millrace/services/admin/page", "millrace/engine", "millrace/services", "millrace/timerwheel", "millrace/internal/hist", "github.com/prometheus",
		"google.golang.org/protobuf/proto"},
	"millrace/services/servicestest":            {"millrace/engine", "millrace/services"},
	"millrace/services/otel":                    {"millrace/services", "millrace/dbasync", "github.com/jackc/pgx/v5", "go.opentelemetry.io/otel"},
	"millrace/services/events":                  {"millrace/services", "millrace/engine", "millrace/dbasync", "millrace/internal/seldom"},
	"millrace/examples/chat":                    {"millrace/engine", "millrace/services", "millrace/services/serial"},
	"millrace/examples/echo":                    {"millrace/codec", "millrace/engine"},
	"millrace/examples/embedded":                {"millrace/codec", "millrace/engine"},
	"millrace/examples/gateway":                 {"millrace/codec", "millrace/engine"},
	"millrace/examples/game":                    {"millrace/engine", "millrace/services", "millrace/timerwheel"},
	"millrace/examples/feed":                    {"millrace/engine", "millrace/services", "millrace/timerwheel"},
	"millrace/services/client":                  {"millrace/codec", "millrace/services/serial", "github.com/coder/websocket"},
	"millrace/services/capture":                 {"millrace/codec", "millrace/engine", "millrace/internal/userfile"},
	"millrace/services/nodes":                   {"millrace/codec", "millrace/engine", "millrace/services", "millrace/services/cluster", "millrace/services/serial", "millrace/services/nodes/internal", "millrace/internal/seldom"},
	"millrace/services/nodes/internal/envelope": {},
	"millrace/services/cluster": {"millrace/services", "millrace/internal/mask", "millrace/internal/seldom", "millrace/internal/userfile", "github.com/nats-io/nats.go", "github.com/nats-io/nkeys", "github.com/nats-io/nats-server/v2",
		"golang.org/x/sys"},
}

// What must not be linked at all, however far away, by whoever imports a package.
var mustNotLink = map[string][]string{
	"millrace/engine":                {"millrace/dbasync", "millrace/timerwheel", "millrace/services", "github.com/jackc", "github.com/RussellLuo", "github.com/nats-io", "github.com/prometheus"},
	"millrace/engine/enginetest":     {"millrace/dbasync", "millrace/timerwheel", "millrace/services", "github.com/jackc", "github.com/RussellLuo", "pgregory.net"},
	"millrace/services":              {"millrace/dbasync", "github.com/jackc", "github.com/nats-io", "github.com/prometheus"},
	"millrace/services/servicestest": {"millrace/dbasync", "github.com/jackc", "github.com/nats-io", "github.com/prometheus"},
	"millrace/services/admin":        {"millrace/dbasync", "github.com/jackc", "github.com/nats-io", "net/http/pprof"},
	"millrace/services/events":       {"github.com/nats-io"},
	"millrace/services/client":       {"millrace/engine", "millrace/dbasync", "github.com/panjf2000", "github.com/jackc", "github.com/nats-io"},
	"millrace/examples/chat":         {"millrace/dbasync", "github.com/jackc", "github.com/nats-io", "github.com/alecthomas"},
	"millrace/timerwheel":            {"millrace/engine"},
	"millrace/dbasync":               {"millrace/engine"},
	"millrace/services/capture":      {"millrace/dbasync", "millrace/timerwheel", "github.com/jackc", "github.com/nats-io"},
	"millrace/examples/gateway":      {"millrace/timerwheel", "millrace/services", "millrace/dbasync"},
}

func goList(t *testing.T, args ...string) []string {
	t.Helper()
	out, err := exec.Command("go", append([]string{"list"}, args...)...).Output()
	if err != nil {
		t.Fatalf("go list %v: %v", args, err)
	}
	return strings.Fields(string(out))
}

func under(path string, prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return path == p || strings.HasPrefix(path, p+"/") })
}

func TestPackagesImportOnlyWhatTheyMay(t *testing.T) {
	t.Parallel()
	own, _, _ := strings.Cut("millrace/codec", "/codec") // the module, whatever its path
	for pkg, allowed := range mayImport {
		for _, imported := range goList(t, "-f", `{{join .Imports "\n"}}`, pkg) {
			first, _, _ := strings.Cut(imported, "/")
			if (strings.Contains(first, ".") || under(imported, []string{own})) && !under(imported, allowed) {
				t.Errorf("%s imports %s", pkg, imported)
			}
		}
	}
}

// Whoever replaces gnet replaces one package, its tests included.
func TestOnlyOnePackageKnowsGnet(t *testing.T) {
	for _, line := range goList(t, "-f", `{{$p := .ImportPath}}{{range .Imports}}{{$p}}:{{.}} {{end}}{{range .TestImports}}{{$p}}:{{.}} {{end}}{{range .XTestImports}}{{$p}}:{{.}} {{end}}`, "millrace/engine/...") {
		pkg, imported, _ := strings.Cut(line, ":")
		if under(imported, []string{"github.com/panjf2000", "golang.org/x/sys"}) && pkg != "millrace/engine/internal/gnetio" {
			t.Errorf("%s imports %s", pkg, imported)
		}
	}
}

func TestEmbeddersDoNotLinkWhatTheyDidNotAskFor(t *testing.T) {
	t.Parallel()
	for pkg, banned := range mustNotLink {
		for _, dep := range goList(t, "-deps", pkg) {
			if under(dep, banned) {
				t.Errorf("%s links %s", pkg, dep)
			}
		}
	}
}
