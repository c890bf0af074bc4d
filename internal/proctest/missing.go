package proctest

import (
	"os"
	"testing"
)

// Missing ends a test that needs what this machine lacks, a program or a package: it is
// skipped, but where CI is set, which installs all of that, it fails.
func Missing(tb testing.TB, why ...any) {
	tb.Helper()
	if os.Getenv("CI") != "" {
		tb.Fatal(append([]any{"CI lacks what this test needs: "}, why...)...)
	}
	tb.Skip(why...)
}
