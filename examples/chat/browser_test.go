package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/internal/proctest"
)

// workshop is a copy of the page's sources, beside a copy of the client's, with what npm
// installs.
type workshop struct {
	testing.TB
	dir string // of the page
}

var (
	shop     *workshop
	shopOnce sync.Once
	shopDir  string
)

func TestMain(m *testing.M) {
	code := m.Run()
	if shopDir != "" {
		os.RemoveAll(shopDir)
	}
	os.Exit(code)
}

// openWorkshop skips without Node 20 and npm. Tests share what it makes.
func openWorkshop(t testing.TB) *workshop {
	t.Helper()
	out, err := exec.Command("node", "--version").Output()
	if err != nil {
		proctest.Missing(t, "no node here: ", err)
	}
	major, _, _ := strings.Cut(strings.TrimPrefix(string(out), "v"), ".")
	if n, err := strconv.Atoi(major); err != nil || n < 20 {
		t.Skipf("node %s: the page's tools ask for 20 or later", strings.TrimSpace(string(out)))
	}
	if _, err := exec.LookPath("npm"); err != nil {
		proctest.Missing(t, "no npm here: ", err)
	}
	shopOnce.Do(func() {
		if shopDir, err = os.MkdirTemp("", "chat-page"); err != nil {
			t.Fatal(err)
		}
		w := &workshop{TB: t, dir: filepath.Join(shopDir, "examples/chat/page")}
		for to, from := range map[string]string{"services/client/ts/src": "../../services/client/ts/src", "examples/chat/page/src": "page/src", "examples/chat/page/test": "page/test"} {
			if err := os.CopyFS(filepath.Join(shopDir, to), os.DirFS(from)); err != nil {
				t.Fatal(err)
			}
		}
		for _, name := range []string{"package.json", "package-lock.json", "tsconfig.json", "build.mjs", "../../../services/client/ts/package.json"} {
			b, err := os.ReadFile(filepath.Join("page", name))
			if err == nil {
				err = os.WriteFile(filepath.Join(w.dir, name), b, 0o644)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		w.run(nil, "npm", "ci", "--no-audit", "--no-fund")
		shop = w
	})
	if shop == nil {
		t.Fatal("the page's tools could not be installed")
	}
	return &workshop{TB: t, dir: shop.dir}
}

func (w *workshop) run(env []string, args ...string) string {
	w.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir, cmd.Env, cmd.WaitDelay = w.dir, append(os.Environ(), env...), time.Second
	start := time.Now()
	out, err := cmd.CombinedOutput()
	if err != nil {
		w.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	w.Logf("%s: %v", strings.Join(args, " "), time.Since(start).Round(time.Millisecond))
	return string(out)
}

func TestThePageIsMadeOfItsSources(t *testing.T) {
	w := openWorkshop(t)
	w.run(nil, "npm", "run", "--silent", "check")
	made := filepath.Join(t.TempDir(), "page.html")
	w.run(nil, "node", "build.mjs", made)
	b, err := os.ReadFile(made)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, []byte(pageHTML)) {
		t.Error("page.html is not what page/build.mjs makes: run npm ci && npm run build in the folder page")
	}
	if n := strings.Count(pageHTML, addressMark); n != 1 {
		t.Errorf("the page has %d places for the address, want 1", n)
	}
}

// TestTwoBrowsers drives headless Chromium; what it does stands in page/test/browser.test.ts.
func TestTwoBrowsers(t *testing.T) {
	w := openWorkshop(t)
	browser := ""
	for _, name := range []string{"chromium-headless-shell", "chromium", "google-chrome"} {
		if p, err := exec.LookPath(name); err == nil {
			browser = p
			break
		}
	}
	if browser == "" {
		proctest.Missing(t, "no chromium here")
	}
	dir := t.TempDir()
	chat := filepath.Join(dir, "chat")
	if out, err := exec.Command("go", "build", "-o", chat, ".").CombinedOutput(); err != nil {
		t.Fatalf("the server: %v\n%s", err, out)
	}
	w.run(nil, "node_modules/.bin/esbuild", "test/browser.test.ts", "--bundle", "--platform=node", "--format=esm",
		"--external:playwright-core", "--external:ws", "--outfile=build/browser.test.js", "--log-level=warning")
	env := []string{"TEST_CHAT=" + chat, "TEST_DIR=" + dir, "TEST_BROWSER=" + browser}
	if *long {
		env = append(env, "TEST_LONG=1")
	}
	t.Log("\n" + w.run(env, "node", "--test", "--test-force-exit", "--test-reporter=spec", "build/browser.test.js"))
}
