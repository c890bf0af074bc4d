package dbbench

import (
	"context"
	"fmt"
	"math"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// pipeline is how many statements pgbench sends under one Sync.
const pipeline = 64

// PGBench measures the server's own load driver with pipelined prepared statements,
// 64 of them under one Sync and in one transaction, with cfg.OwnTx each in its own: what is
// near the limit of server and protocol on this machine, without anyone waiting for a single
// result. binDir holds pgbench.
func PGBench(ctx context.Context, binDir string, cfg Config) (Round, error) {
	cfg = cfg.withDefaults()
	dir, err := os.MkdirTemp("", "dbbench")
	if err != nil {
		return Round{}, fmt.Errorf("dbbench: %w", err)
	}
	defer os.RemoveAll(dir)
	script := filepath.Join(dir, "script.sql")
	if err := os.WriteFile(script, []byte(pgbenchScript(cfg.Workload, cfg.OwnTx)), 0o600); err != nil {
		return Round{}, fmt.Errorf("dbbench: %w", err)
	}
	u, err := url.Parse(cfg.URL)
	if err != nil {
		return Round{}, fmt.Errorf("dbbench: %w", err)
	}
	seconds := max(1, int(math.Ceil(cfg.Duration.Seconds())))
	cmd := exec.CommandContext(ctx, filepath.Join(binDir, "pgbench"), "-n", "-M", "prepared", "-f", script,
		"-c", strconv.Itoa(cfg.Conns), "-j", strconv.Itoa(min(2, cfg.Conns)), "-T", strconv.Itoa(seconds),
		"-h", u.Hostname(), "-p", u.Port(), "-U", u.User.Username(), strings.TrimPrefix(u.Path, "/"))
	if password, ok := u.User.Password(); ok {
		cmd.Env = append(os.Environ(), "PGPASSWORD="+password)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return Round{}, fmt.Errorf("dbbench: pgbench: %w: %s", err, out)
	}
	m := regexp.MustCompile(`tps = ([0-9.]+)`).FindSubmatch(out)
	if m == nil {
		return Round{}, fmt.Errorf("dbbench: pgbench said %q", out)
	}
	tps, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil {
		return Round{}, fmt.Errorf("dbbench: %w", err)
	}
	n := tps * pipeline
	return Round{PerSecond: n, Queries: uint64(n * float64(seconds)), Burst: pipeline}, nil
}

func pgbenchScript(w Workload, own bool) string {
	var b strings.Builder
	for i := range pipeline {
		fmt.Fprintf(&b, "\\set id%d random(1, %d)\n", i, Rows)
	}
	b.WriteString("\\startpipeline\n")
	if own {
		b.WriteString("begin;\n")
	}
	for i := range pipeline {
		if own && i > 0 {
			b.WriteString("commit and chain;\n")
		}
		fmt.Fprintf(&b, "%s;\n", strings.ReplaceAll(w.sql(), "$1", ":id"+strconv.Itoa(i)))
	}
	if own {
		b.WriteString("commit;\n")
	}
	b.WriteString("\\endpipeline\n")
	return b.String()
}
