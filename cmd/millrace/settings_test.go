package main

import (
	"cmp"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A server starts and answers with each setting off its default.
func TestEachSettingServes(t *testing.T) {
	cert, key := certificate(t, "localhost")
	other := map[string]string{
		"addr": "tcp://localhost:0", "accept": "single", "balance": "source-hash", "loops": "1", "workers": "1", "spare-workers": "1", "stall-after": "off",
		"dispatch": "inline", "handle-dispatch": "1/1=ordered", "max-frame": "1KiB", "max-conns": "9", "max-conns-per-ip": "9", "ipv6-prefix": "56", "max-outbound": "64KiB",
		"max-pending": "64KiB", "memory-budget": "8MiB", "max-outbox": "1MiB", "max-queue": "64", "max-tasks": "64", "max-groups": "2", "max-refused": "9",
		"wait-budget": "9s", "handle-wait": "1/4=off", "accept-rate": "999", "accept-rate-per-ip": "999", "frame-rate": "9999", "byte-rate": "1MiB", "session-cpu": "900ms", "costs": "true",
		"first-frame-timeout": "off", "frame-timeout": "off", "idle-timeout": "9s", "heartbeat": "9s", "linger": "1s", "fin-timeout": "9s", "resume": "9s", "handover": "off", "resume-bytes": "64KiB",
		"system-frames": "false", "read-buffer": "4KiB", "socket-recv-buffer": "64KiB", "socket-send-buffer": "64KiB", "no-delay": "false",
		"keep-alive": "off", "keep-alive-every": "9s", "keep-alive-count": "2", "user-timeout": "off", "unix-mode": "0660",
		"tls-cert": cert, "tls-key": key, "tls-self-signed": "true", "tls-client-ca": cert, "tls-min": "1.3", "handshake-timeout": "9s", "max-handshakes": "9",
		"handshake-rate": "9", "ws-compress": "true", "ws-ratio": "off",
		"proxy-protocol": "192.0.2.0/24", "ws-origin": "https://example.com", "forwarded-for": "192.0.2.0/24",
		"drain-budget": "1", "byte-order": "little", "length-width": "2", "length-adjust": "-4", "prefix": "cafe",
		"command": "main-sub-8", "seq": "true", "framing": "varint", "timer-tick": "5ms", "timer-slack": "off", "max-timers": "9", "max-session-timers": "9", "db": "postgres://127.0.0.1:1/x",
		"db-dir": t.TempDir(), "db-lanes": "1", "db-burst": "8", "db-queue": "8", "db-slow": "2", "db-slow-queue": "8", "db-queue-bytes": "1MiB", "db-timeout": "9s", "cluster": "embedded", "cluster-dir": t.TempDir(),
		"cluster-replicas": "2", "cluster-creds": cert, "cluster-nkey": cert, "cluster-tls-ca": cert, "cluster-tls-cert": cert, "cluster-tls-key": key,
		"cluster-lease": "9s", "cluster-prefix": "other", "node": "a-node", "max-cluster-work": "9", "max-rooms": "9", "max-takeovers": "9", "max-moved": "9", "takeover-bytes": "2MiB", "takeover-timeout": "1s",
		"max-keys": "9", "cache-bytes": "1MiB", "max-session-keys": "9", "max-session-locks": "9", "max-delayed": "9", "drain-timeout": "off", "drain-rate": "9", "drain-to": "127.0.0.1:1",
		"admin": "127.0.0.1:0", "admin-token-file": tokenFile(t), "admin-write": "true", "admin-pprof": "true", "admin-trace": "1s", "admin-clients": "2",
		"recorder": "errors", "recorder-keep": "9", "record-bodies": filepath.Join(t.TempDir(), "bodies"), "record-bodies-limit": "1MiB", "record-bodies-queue": "128KiB",
		"unsafe-demo": "true", "log-level": "debug", "log-format": "json",
	}
	alone := map[string]string{ // these change the frame, or what others may be; the echo that they make
		"byte-order":    "\x09\x00\x00\x00\x01\x00\x01\x00hello",
		"length-width":  "\x00\x09\x00\x01\x00\x01hello",
		"length-adjust": "\x00\x00\x00\x0d\x00\x01\x00\x01hello",
		"prefix":        "\xca\xfe\x00\x00\x00\x09\x00\x01\x00\x01hello",
		"command":       "\x00\x00\x00\x07\x01\x01hello",
		"seq":           "\x00\x00\x00\x0d\x00\x01\x00\x01\x11\x22\x33\x44hello",
		"framing":       "\x09\x00\x01\x00\x01hello",
		"system-frames": "\x00\x00\x00\x09\x00\x01\x00\x01hello",
	}
	printed, _, code := millrace(t, nil, "", "serve", "--print-config")
	if code != 0 {
		t.Fatalf("--print-config: exit code %d", code)
	}
	var together [][]string // settings that one server is given
	n := 0
	for line := range strings.Lines(printed) {
		name, was, _ := strings.Cut(line, " = ")
		value, ok := other[name]
		if !ok || strings.Trim(strings.TrimSpace(was), `"`) == value {
			t.Errorf("%s: no value of its own in this test", name)
			continue
		}
		arg := "--" + name + "=" + value
		switch name {
		case "tls-key", "tls-client-ca": // they come with tls-cert
			continue
		case "cluster-replicas": // it takes a cluster of NATS servers, which nobody waits for here
			together = append([][]string{{arg, "--cluster=nats://127.0.0.1:1"}}, together...)
			continue
		case "cluster-creds", "cluster-nkey", "cluster-tls-ca", "cluster-tls-cert", "cluster-tls-key": // servers that ask for these are in a test of their own
			continue
		case "tls-cert":
			together = append([][]string{{arg, "--tls-key=" + key, "--tls-client-ca=" + cert, "--addr=tcp://127.0.0.1:0", "--addr=tls://127.0.0.1:0"}}, together...)
			continue
		case "tls-self-signed":
			together = append([][]string{{arg, "--addr=tcp://127.0.0.1:0", "--addr=tls://127.0.0.1:0"}}, together...)
			continue
		case "admin-token-file", "admin-write", "admin-pprof", "admin-trace":
			together = append([][]string{{arg, "--admin=127.0.0.1:0"}}, together...)
			continue
		}
		if alone[name] != "" {
			together = append([][]string{{arg}}, together...)
			continue
		}
		if n%10 == 0 {
			together = append(together, nil)
		}
		n++
		last := &together[len(together)-1]
		*last = append(*last, arg)
	}
	for _, args := range together {
		t.Run(args[0], func(t *testing.T) {
			t.Parallel()
			name, _, _ := strings.Cut(args[0][2:], "=")
			echoed := cmp.Or(alone[name], "\x00\x00\x00\x09\x00\x01\x00\x01hello")
			c := serve(t, args...).dial()
			c.write([]byte(echoed))
			got := make([]byte, len(echoed))
			if _, err := io.ReadFull(c.r, got); err != nil || string(got) != echoed {
				t.Errorf("%v: got %q, %v, want %q", args, got, err, echoed)
			}
		})
	}
}

func tokenFile(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(name, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}
