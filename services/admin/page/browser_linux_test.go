package page

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"flag"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/internal/proctest"
)

var (
	long   = flag.Bool("long", false, "watch the page for two minutes, with a thousand sessions a second that come and go")
	update = flag.Bool("update", false, "take the pictures in docs/images anew")
)

// TestThePage drives headless Chromium before a server with a thousand sessions and faults
// going on; what it does stands in test/page.test.mjs.
func TestThePage(t *testing.T) {
	browser := browserHere(t)
	dir := t.TempDir()
	for _, name := range []string{"package.json", "package-lock.json", "page.test.mjs"} {
		b, err := os.ReadFile(filepath.Join("test", name))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), b, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var tools sync.WaitGroup // npm beside the compiler
	tools.Go(func() { run(t, dir, nil, "npm", "ci", "--no-audit", "--no-fund") })
	s := newServer(t, dir)
	tools.Wait()
	if t.Failed() {
		return
	}
	s.start("")
	l := startLoad(t, s.addr)
	control := httptest.NewServer(s.control(l))
	defer control.Close()
	seconds, churn, shots := "3", "100", ""
	if *long {
		seconds, churn = "120", "1000"
	}
	if *update {
		shots, _ = filepath.Abs("../../../docs/images")
		if err := os.MkdirAll(shots, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	out := run(t, dir, []string{"TEST_URL=http://" + s.admin + "/", "TEST_CONTROL=" + control.URL + "/", "TEST_BROWSER=" + browser, "TEST_SHOTS=" + shots, "TEST_SECONDS=" + seconds, "TEST_CHURN=" + churn},
		"node", "--test", "--test-force-exit", "--test-reporter=spec", "page.test.mjs")
	t.Log("\n" + out)
	if *update {
		for _, name := range pictures {
			shrink(t, filepath.Join(shots, name))
		}
	}
	t.Log(l)
}

// pictures are in docs/images.
var pictures = []string{"live-light.png", "live-dark.png", "live-phone.png"}

// shrink leaves a picture 64 colours: those that it has most of and that differ.
func shrink(t *testing.T, name string) {
	f, err := os.Open(name)
	if err != nil {
		t.Error(err)
		return
	}
	defer f.Close()
	from, err := png.Decode(f)
	if err != nil {
		t.Error(err)
		return
	}
	n := map[color.Color]int{}
	box := from.Bounds()
	for y := box.Min.Y; y < box.Max.Y; y++ {
		for x := box.Min.X; x < box.Max.X; x++ {
			n[from.At(x, y)]++
		}
	}
	all := slices.SortedFunc(maps.Keys(n), func(a, b color.Color) int { return cmp.Compare(n[b], n[a]) })
	palette := color.Palette{all[0]}
	for _, c := range all {
		if len(palette) < 64 && distance(c, palette.Convert(c)) > 24 {
			palette = append(palette, c)
		}
	}
	to := image.NewPaletted(box, palette)
	nearest := map[color.Color]uint8{}
	for y := box.Min.Y; y < box.Max.Y; y++ {
		for x := box.Min.X; x < box.Max.X; x++ {
			c := from.At(x, y)
			i, ok := nearest[c]
			if !ok {
				i = uint8(to.Palette.Index(c))
				nearest[c] = i
			}
			to.SetColorIndex(x, y, i)
		}
	}
	var b bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&b, to); err != nil {
		t.Error(err)
		return
	}
	if err := os.WriteFile(name, b.Bytes(), 0o644); err != nil {
		t.Error(err)
	}
}

// distance is how much two colours differ, in steps of 255, over all three parts.
func distance(a, b color.Color) (d int) {
	r, g, bl, _ := a.RGBA()
	x, y, z, _ := b.RGBA()
	for _, p := range [][2]uint32{{r, x}, {g, y}, {bl, z}} {
		d += int(max(p[0], p[1])-min(p[0], p[1])) >> 8
	}
	return d
}

// The pictures are of the page, and small.
func TestPictures(t *testing.T) {
	for _, name := range pictures {
		b, err := os.ReadFile(filepath.Join("../../../docs/images", name))
		switch {
		case err != nil:
			t.Error(err)
		case !strings.HasPrefix(string(b), "\x89PNG\r\n") || len(b) > 150_000:
			t.Errorf("%s: %d bytes, want a PNG of at most 150,000", name, len(b))
		}
	}
}

// browserHere skips without Node 20, npm and Chromium.
func browserHere(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("node", "--version").Output()
	if err != nil {
		proctest.Missing(t, "no node here: ", err)
	}
	major, _, _ := strings.Cut(strings.TrimPrefix(string(out), "v"), ".")
	if n, err := strconv.Atoi(major); err != nil || n < 20 {
		t.Skipf("node %s: 20 or later is asked for", strings.TrimSpace(string(out)))
	}
	if _, err := exec.LookPath("npm"); err != nil {
		proctest.Missing(t, "no npm here: ", err)
	}
	for _, name := range []string{"chromium-headless-shell", "chromium", "google-chrome"} {
		if p, err := exec.LookPath(name); err == nil {
			return p
		}
	}
	proctest.Missing(t, "no chromium here")
	return ""
}

func run(t *testing.T, dir string, env []string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 6*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir, cmd.Env, cmd.WaitDelay = dir, append(os.Environ(), env...), time.Second
	began := time.Now()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	t.Logf("%s: %v", args[0], time.Since(began).Round(time.Millisecond))
	return string(out)
}

// The limits of the server, so near that the load meets them.
const (
	maxConns = 1040
	steady   = 1000
)

// server is a millrace serve that can be killed and started again at the same addresses.
type server struct {
	testing.TB
	program, dir string
	addr, admin  string
	mu           sync.Mutex
	cmd          *exec.Cmd // guarded by mu
	victim       net.Conn  // guarded by mu
}

func newServer(t *testing.T, dir string) *server {
	s := &server{TB: t, dir: dir, program: filepath.Join(dir, "millrace"), addr: freePort(t), admin: freePort(t)}
	if out, err := exec.Command("go", "build", "-o", s.program, "millrace/cmd/millrace").CombinedOutput(); err != nil {
		t.Fatalf("the server: %v\n%s", err, out)
	}
	t.Cleanup(s.kill)
	return s
}

func freePort(t *testing.T) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// start waits until it is ready. With a token it asks for it.
func (s *server) start(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	args := []string{"serve", "--addr", "tcp://" + s.addr, "--admin", s.admin, "--admin-write", "--loops", "2", "--workers", "8", "--max-conns", strconv.Itoa(maxConns),
		"--costs", "--stall-after", "10ms", "--max-outbound", "64KiB", "--socket-send-buffer", "16KiB", "--log-level", "error"}
	if token != "" {
		file := filepath.Join(s.dir, "token")
		if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
			s.Error(err)
		}
		args = append(args, "--admin-token-file", file)
	}
	cmd := exec.Command(s.program, args...)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		s.Error(err)
		return
	}
	s.cmd = cmd
	if line, err := bufio.NewReader(stdout).ReadString('\n'); !strings.HasPrefix(line, "ready ") {
		s.Errorf("the server says %q, %v", line, err)
	}
}

func (s *server) kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd != nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
		s.cmd = nil
	}
}

// control is what the test in Node asks for.
func (s *server) control(l *load) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /kill", func(http.ResponseWriter, *http.Request) { s.kill() })
	mux.HandleFunc("POST /start", func(_ http.ResponseWriter, r *http.Request) {
		token, _ := io.ReadAll(r.Body)
		s.start(string(token))
	})
	mux.HandleFunc("POST /victim", func(w http.ResponseWriter, r *http.Request) {
		c, err := l.enter(r.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		s.mu.Lock()
		s.victim = c
		s.mu.Unlock()
		s.Cleanup(func() { c.Close() })
		fmt.Fprintf(w, `{"addr":%q}`, c.LocalAddr())
	})
	mux.HandleFunc("GET /kicked", func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		_ = s.victim.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		_, err := io.Copy(io.Discard, s.victim)
		fmt.Fprint(w, err == nil) // nil at its FIN
	})
	return mux
}
