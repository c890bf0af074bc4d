package main

import (
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"millrace/cmd/millrace/internal/reference"

	"millrace/engine"
	"millrace/services"
)

// parse reads serve's command line in this process.
func parse(t *testing.T, args ...string) engine.Config {
	t.Helper()
	var cli commands
	parser, err := newParser(&cli, &sources{}, io.Discard, io.Discard, here())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parser.Parse(append([]string{"serve"}, args...)); err != nil {
		t.Fatal(err)
	}
	return cli.Serve.config(&cli.Serve.frameFlags, nil, nil, slog.Default())
}

func TestSizesReadWhatTheyWrite(t *testing.T) {
	for _, c := range []struct {
		text string
		n    int
		back string
	}{
		{"1", 1, "1"}, {"1024", 1024, "1KiB"}, {"1KiB", 1024, "1KiB"}, {"1536KiB", 1536 << 10, "1536KiB"}, {"64 MiB", 64 << 20, "64MiB"},
		{"1GiB", 1 << 30, "1GiB"}, {"1000000", 1000000, "1000000"},
	} {
		n, ok := parseSize(c.text)
		if !ok || n != c.n || size(n).String() != c.back {
			t.Errorf("%s: got %d, %v, written as %s, want %d, %s", c.text, n, ok, size(n), c.n, c.back)
		}
	}
	for _, bad := range []string{"", "KiB", "-1", "1.5MiB", "1kb", "1K", "0x10", "9223372036854775807GiB"} {
		if n, ok := parseSize(bad); ok {
			t.Errorf("%q was read as %d", bad, n)
		}
	}
}

func TestHandleDispatchWinsOverTheServersOwn(t *testing.T) {
	var f engineFlags
	f.HandleDispatch = routes{{handle{1, 4}, engine.Inline}}
	c, err := services.NewController(services.ControllerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if err := reference.Basics(c, false, reference.Here{}); err != nil {
		t.Fatal(err)
	}
	own := c.Dispatch()
	if own[1<<16|4] != engine.Ordered {
		t.Errorf("1/4 runs %v by itself, want ordered", own[1<<16|4])
	}
	if got := f.config(&frameFlags{}, nil, own, nil).Handles[1<<16|4]; got != engine.Inline {
		t.Errorf("1/4 runs %v, want inline", got)
	}
	if own[1<<16|4] != engine.Ordered {
		t.Error("the server's own table was changed")
	}
	if got := f.config(&frameFlags{}, nil, nil, nil).Handles[1<<16|4]; got != engine.Inline {
		t.Errorf("a server without handles of its own: got %v, want inline", got)
	}
}

func TestFlagNames(t *testing.T) {
	for field, flag := range map[string]string{"MaxFrame": "max-frame", "Addrs": "addr", "MaxConnsPerIP": "max-conns-per-ip",
		"UnixMode": "unix-mode", "Delay": "no-delay", "NoSystemFrames": "system-frames", "KeepAliveEvery": "keep-alive-every"} {
		if got := flagOf(field); got != flag {
			t.Errorf("%s: got %s, want %s", field, got, flag)
		}
	}
}

func TestDurationsReadWhatTheyWrite(t *testing.T) {
	for _, text := range []string{"1500ms", "10s", "5m", "1m30s", "2h", "1h30m", "1h0m5s", "100h", "10m", "500ns"} {
		d, err := time.ParseDuration(text)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := time.ParseDuration(short(d)); err != nil || back != d {
			t.Errorf("%s is written as %s", text, short(d))
		}
	}
	if got := short(5 * time.Minute); got != "5m" {
		t.Errorf("got %s, want 5m", got)
	}
}

func TestUnixModeIsOctal(t *testing.T) {
	for _, bad := range []string{"0", "0888", "rw", "1777", "-1"} {
		if _, text, code := millrace(t, nil, "", "serve", "--unix-mode="+bad); code != exitUsage || !strings.Contains(text, "--unix-mode") || !strings.Contains(text, "octal") {
			t.Errorf("%s: exit code %d, %s", bad, code, text)
		}
	}
	for given, want := range map[string]string{"660": "0660", "0600": "0600", "umask": "umask"} {
		if out, _, code := millrace(t, nil, "", "serve", "--addr=unix:///tmp/x", "--unix-mode="+given, "--print-config"); code != 0 || !strings.Contains(out, `unix-mode = "`+want+`"`) {
			t.Errorf("%s: exit code %d, %s", given, code, out)
		}
	}
}
