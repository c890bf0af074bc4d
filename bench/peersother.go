package bench

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// nettyJars are what the peer netty needs, as Debian's libnetty-java has it.
func nettyJars() (path []string) {
	for _, part := range []string{"common", "buffer", "resolver", "transport", "codec", "handler"} {
		path = append(path, "/usr/share/java/netty-"+part+".jar")
	}
	return path
}

func (p *Peers) buildNetty(ctx context.Context, t *Target) error {
	jars := nettyJars()
	if _, err := exec.LookPath("javac"); err != nil {
		return fmt.Errorf("bench: peer netty needs a JDK: %w", err)
	}
	if _, err := os.Stat(jars[0]); err != nil {
		return fmt.Errorf("bench: peer netty needs libnetty-java: %w", err)
	}
	classes := filepath.Join(p.bin, "netty")
	t.Command = []string{"java", "-cp", strings.Join(append(jars, classes), ":"), "Netty"}
	return p.compile(ctx, "netty", filepath.Join(p.dir, "java"), "Netty.java", filepath.Join(classes, "Netty.class"),
		"javac", "-cp", strings.Join(jars, ":"), "-d", classes, "Netty.java")
}

func (p *Peers) buildErlang(ctx context.Context, t *Target) error {
	if _, err := exec.LookPath("erlc"); err != nil {
		return fmt.Errorf("bench: peer erlang needs erlc: %w", err)
	}
	code := filepath.Join(p.bin, "erlang")
	t.Command = []string{"erl", "+Bd", "+K", "true", "-noinput", "-pa", code, "-s", "echo_peer", "main"}
	t.OneLoop = []string{"+S", "1:1"}
	return p.compile(ctx, "erlang", filepath.Join(p.dir, "erlang"), "echo_peer.erl", filepath.Join(code, "echo_peer.beam"), "erlc", "-o", code, "echo_peer.erl")
}

// compile runs a compiler in dir, if out is older than source.
func (p *Peers) compile(ctx context.Context, name, dir, source, out string, command ...string) error {
	if fresh(out, filepath.Join(dir, source)) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	return p.build(ctx, name, dir, command...)
}
