package proctest

import (
	"os"
	"testing"
)

// Missing ends a test that needs a program or package which this machine lacks: the test is
// skipped, or fails if CI is set, as CI installs everything.
func Missing(tb testing.TB, why ...any) {
	tb.Helper()
	if os.Getenv("CI") != "" {
		tb.Fatal(append([]any{"CI lacks what this test needs: "}, why...)...)
	}
	tb.Skip(why...)
}
