package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// ErrNoPeers: the peers' sources were not found; they are part of a checkout of the repository.
var ErrNoPeers = errors.New("bench: no checkout of the repository around here, so its peers cannot be built")

// PeerNames lists every peer: the plain Go ones, the C++ ones, which need g++ (and boost for asio),
// netty, which needs a JDK and Debian's libnetty-java, erlang, which needs erlc, those that only support TLS or WebSocket (asio-tls needs OpenSSL's headers too), and nats, which
// is a node of a cluster.
func PeerNames() []string {
	return []string{"gnet", "gnet-async", "gnet-castbatch", "std", "nbio", "netpoll", "zinx", "evio", "gev", "epoll", "asio", "netty", "erlang", "gws", "gobwas", "coder", "asio-tls", natsPeer}
}

// natsPeer is a server with nats.go: a node of a cluster.
const natsPeer = "nats"

// plantedPeers are deliberate mistakes, to test that the suite detects them: a write for each
// frame, and a lock of the whole server held during write.
var plantedPeers = []string{"gnet-each", "std-lock"}

// cppPeers are the peers in C++, with the libraries to link.
var cppPeers = map[string][]string{"epoll": nil, "asio": nil, "asio-tls": {"-lssl", "-lcrypto"}}

// Peers builds peers from a checkout.
type Peers struct {
	dir string // bench/peers of the checkout
	bin string // where the binaries go
}

// FindPeers looks for the sources in dir, or, when dir is empty, in the checkout around the working
// directory or around this program. Binaries go to cache, or to the user's cache directory.
func FindPeers(dir, cache string) (*Peers, error) {
	if cache == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			base = os.TempDir()
		}
		cache = filepath.Join(base, "millrace-bench")
	}
	for _, d := range candidates(dir) {
		if mod, err := os.ReadFile(filepath.Join(d, "go.mod")); err == nil && strings.HasPrefix(string(mod), "module millrace/bench/peers") {
			return &Peers{dir: d, bin: cache}, nil
		}
	}
	if dir != "" {
		return nil, fmt.Errorf("bench: %s does not hold the peers", dir)
	}
	return nil, ErrNoPeers
}

func candidates(dir string) []string {
	if dir != "" {
		return []string{dir}
	}
	var out []string
	climb := func(from string) {
		for ; ; from = filepath.Dir(from) {
			out = append(out, filepath.Join(from, "bench", "peers"))
			if from == filepath.Dir(from) {
				return
			}
		}
	}
	if wd, err := os.Getwd(); err == nil {
		climb(wd)
	}
	if self, err := os.Executable(); err == nil {
		climb(filepath.Dir(self))
	}
	return out
}

// Target builds the named peer, if its source has changed, and returns a target that runs it.
func (p *Peers) Target(ctx context.Context, name string) (Target, error) {
	if err := os.MkdirAll(p.bin, 0o755); err != nil {
		return Target{}, fmt.Errorf("bench: %w", err)
	}
	t := Target{Name: name, OneLoop: []string{"-loops", "1"}, Doors: []string{"-door", "{door}"}}
	if name == natsPeer {
		t.Nodes = []string{"-nats", "{nats}", "-node", "{node}", "-nodes", "{nodes}"}
	}
	libs, cpp := cppPeers[name]
	switch {
	case cpp:
		bin, err := p.buildCPP(ctx, name, libs)
		t.Command = []string{bin}
		return t, err
	case name == "netty":
		return t, p.buildNetty(ctx, &t)
	case name == "erlang":
		return t, p.buildErlang(ctx, &t)
	case slices.Contains(PeerNames(), name), slices.Contains(plantedPeers, name):
		bin := filepath.Join(p.bin, "peers")
		t.Command = []string{bin, name}
		return t, p.build(ctx, name, p.dir, "go", "build", "-o", bin, ".")
	}
	return Target{}, fmt.Errorf("bench: no peer %q; there are %s", name, strings.Join(PeerNames(), ", "))
}

// buildCPP compiles to a temporary file and renames it, so that a running binary does not
// interfere.
func (p *Peers) buildCPP(ctx context.Context, name string, libs []string) (string, error) {
	if _, err := exec.LookPath("g++"); err != nil {
		return "", fmt.Errorf("bench: peer %s needs g++: %w", name, err)
	}
	bin := filepath.Join(p.bin, "peer-"+name)
	dir := filepath.Join(p.dir, "cpp")
	if fresh(bin, filepath.Join(dir, name+".cpp"), filepath.Join(dir, "frame.hpp")) {
		return bin, nil
	}
	err := p.build(ctx, name, dir, append([]string{"g++", "-std=c++17", "-O2", "-pthread", "-o", bin + ".new", name + ".cpp"}, libs...)...)
	if err != nil {
		return "", err
	}
	return bin, os.Rename(bin+".new", bin)
}

// fresh reports whether bin is newer than its sources.
func fresh(bin string, sources ...string) bool {
	b, err := os.Stat(bin)
	if err != nil {
		return false
	}
	for _, s := range sources {
		if st, err := os.Stat(s); err != nil || !st.ModTime().Before(b.ModTime()) {
			return false
		}
	}
	return true
}

func (p *Peers) build(ctx context.Context, name, dir string, command ...string) error {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("bench: build peer %s: %w: %s", name, err, lastLines(out))
	}
	return nil
}

func lastLines(b []byte) string {
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-3):], "; ")
}
