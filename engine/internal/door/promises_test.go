package door

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The tests that promises.md names are there, in the package that it says.
func TestPromisesNameTestsThatAre(t *testing.T) {
	b, err := os.ReadFile("promises.md")
	if err != nil {
		t.Fatal(err)
	}
	dirs := map[string]string{"": "../..", "door": ".", "codec": "../../../codec", "millrace": "../../../cmd/millrace", "certs": "../../../cmd/millrace/internal/certs"}
	named := 0
	for _, m := range regexp.MustCompile(`(?:\b(door|codec|millrace|certs) )?\b((?:Test|Fuzz)[A-Z]\w+)`).FindAllStringSubmatch(string(b), -1) {
		files, _ := filepath.Glob(filepath.Join(dirs[m[1]], "*_test.go"))
		found := false
		for _, f := range files {
			src, err := os.ReadFile(f)
			found = found || err == nil && strings.Contains(string(src), "func "+m[2]+"(")
		}
		if !found {
			t.Errorf("%s has no %s", dirs[m[1]], m[2])
		}
		named++
	}
	if named < 40 {
		t.Errorf("%d tests are named", named)
	}
}
