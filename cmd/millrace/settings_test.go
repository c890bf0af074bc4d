package main

import (
	"bytes"
	"io"
	"strings"
	"testing"
)

// A server starts and answers with each setting off its default.
func TestEachSettingServes(t *testing.T) {
	other := map[string]string{
		"addr": "tcp://localhost:0", "accept": "single", "balance": "source-hash", "loops": "1", "workers": "1", "spare-workers": "1",
		"dispatch": "inline", "handle-dispatch": "1/1=ordered", "max-frame": "1KiB", "max-conns": "9", "max-conns-per-ip": "9", "max-outbound": "64KiB",
		"max-pending": "64KiB", "memory-budget": "8MiB", "max-outbox": "1MiB", "max-queue": "64", "max-tasks": "64", "max-groups": "2",
		"first-frame-timeout": "off", "frame-timeout": "off", "idle-timeout": "9s", "heartbeat": "9s", "linger": "1s", "fin-timeout": "9s",
		"system-frames": "false", "read-buffer": "4KiB", "socket-recv-buffer": "64KiB", "socket-send-buffer": "64KiB", "no-delay": "false",
		"keep-alive": "off", "keep-alive-every": "9s", "keep-alive-count": "2", "user-timeout": "off", "lock-os-thread": "true",
		"edge-triggered": "true", "drain-budget": "1", "byte-order": "little", "length-width": "2", "length-adjust": "-4", "prefix": "cafe",
		"command": "main-sub-8", "seq": "true", "timer-tick": "5ms", "max-timers": "9", "max-session-timers": "9", "db": "postgres://127.0.0.1:1/x",
		"db-dir": t.TempDir(), "db-lanes": "1", "db-burst": "8", "db-queue": "8", "db-timeout": "9s", "cluster": "embedded", "cluster-dir": t.TempDir(),
		"max-keys": "9", "cache-bytes": "1MiB", "max-session-keys": "9", "max-session-locks": "9", "max-delayed": "9", "drain-timeout": "off",
		"unsafe-demo": "true", "log-level": "debug", "log-format": "json",
	}
	printed, _, code := millrace(t, nil, "", "serve", "--print-config")
	if code != 0 {
		t.Fatalf("--print-config: exit code %d", code)
	}
	for line := range strings.Lines(printed) {
		name, was, _ := strings.Cut(line, " = ")
		value, ok := other[name]
		if !ok || strings.Trim(strings.TrimSpace(was), `"`) == value {
			t.Errorf("%s: no value of its own in this test", name)
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			args := []string{"--" + name + "=" + value}
			echoed := packet{1, 1, "hello"}.bytes()
			switch name {
			case "cluster":
				args = append(args, "--cluster-dir="+t.TempDir())
			case "byte-order":
				echoed = []byte("\x09\x00\x00\x00\x01\x00\x01\x00hello")
			case "length-width":
				echoed = []byte("\x00\x09\x00\x01\x00\x01hello")
			case "length-adjust":
				echoed = []byte("\x00\x00\x00\x0d\x00\x01\x00\x01hello")
			case "prefix":
				echoed = append([]byte("\xca\xfe"), echoed...)
			case "command":
				echoed = []byte("\x00\x00\x00\x07\x01\x01hello")
			case "seq":
				echoed = []byte("\x00\x00\x00\x0d\x00\x01\x00\x01\x11\x22\x33\x44hello")
			}
			c := serve(t, args...).dial()
			c.write(echoed)
			got := make([]byte, len(echoed))
			if _, err := io.ReadFull(c.r, got); err != nil || !bytes.Equal(got, echoed) {
				t.Errorf("got %q, %v, want %q", got, err, echoed)
			}
		})
	}
}
