package main

import (
	"cmp"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// otherValues returns a value for each setting that is not its default.
func otherValues(t *testing.T) map[string]string {
	t.Helper()
	cert, key := certificate(t, "localhost")
	return map[string]string{
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
}

// A server starts and answers with each setting off its default.
func TestEachSettingServes(t *testing.T) {
	other := otherValues(t)
	cert, key := other["tls-cert"], other["tls-key"]
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
	features := make([][]string, len(belongings))
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
		case "cluster": // it comes with cluster-dir
			continue
		case "tls-cert":
			together = append([][]string{{arg, "--tls-key=" + key, "--tls-client-ca=" + cert, "--addr=tcp://127.0.0.1:0", "--addr=tls://127.0.0.1:0"}}, together...)
			continue
		case "tls-self-signed":
			together = append([][]string{{arg, "--addr=tcp://127.0.0.1:0", "--addr=tls://127.0.0.1:0"}}, together...)
			continue
		}
		if b := belongingOf(name); b >= 0 {
			features[b] = append(features[b], arg)
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
	for i, args := range features {
		with := enabling(t, belongings[i].needs)
		if len(args) > 0 && with != nil {
			together = append(together, append(args, with...))
		}
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

// belongingOf returns the index of the feature that a flag belongs to; -1 for none.
func belongingOf(flag string) int {
	return slices.IndexFunc(belongings, func(b belonging) bool { return slices.Contains(b.flags, flag) })
}

// enabling returns flags that turn a feature on; nil if it takes servers that a test of its own has.
func enabling(t *testing.T, needs string) []string {
	t.Helper()
	with, ok := map[string][]string{
		"--admin":                                {"--admin=127.0.0.1:0"},
		"an --addr of tls://, wss:// or auto://": {"--tls-self-signed", "--addr=tcp://127.0.0.1:0", "--addr=tls://127.0.0.1:0"},
		"an --addr of ws://, wss:// or auto://":  {"--addr=tcp://127.0.0.1:0", "--addr=ws://127.0.0.1:0"},
		"--resume and --cluster":                 {"--resume=9s", "--cluster=nats://127.0.0.1:1"},
		"--db":                                   {"--db=postgres://127.0.0.1:1/x"},
		"--cluster":                              {"--cluster=nats://127.0.0.1:1"},
		"--cluster=nats://…":                     nil,
		"--record-bodies":                        {"--record-bodies=" + filepath.Join(t.TempDir(), "bodies")},
	}[needs]
	if !ok {
		t.Errorf("nothing is known to turn on %s", needs)
	}
	return with
}

// A flag without its feature is refused in one line, wherever it comes from; with it, or with its default,
// it is not.
func TestAFlagWithoutItsFeatureIsRefused(t *testing.T) {
	other := otherValues(t)
	printed, _, code := millrace(t, nil, "", "serve", "--print-config")
	if code != exitOK {
		t.Fatalf("--print-config: exit code %d", code)
	}
	for _, b := range belongings {
		for _, flag := range b.flags {
			t.Run(flag+" of "+b.needs, func(t *testing.T) {
				t.Parallel()
				value := other[flag]
				name := filepath.Join(t.TempDir(), "config")
				if err := os.WriteFile(name, []byte(flag+" = \""+value+"\"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
				want := "millrace: --" + flag + ": needs " + b.needs + "; give it, or leave this out"
				for _, from := range []struct {
					env  []string
					args []string
					want string
				}{
					{nil, []string{"--" + flag + "=" + value}, want},
					{[]string{envName(flag) + "=" + value}, nil, want + " (from " + envName(flag) + ")"},
					{nil, []string{"--config=" + name}, want + " (from " + name + ")"},
				} {
					args := append([]string{"serve", "--print-config"}, from.args...)
					stdout, stderr, code := millrace(t, from.env, "", args...)
					if code != exitUsage || stdout != "" || stderr != from.want+"\n" {
						t.Errorf("%v: exit code %d, stdout %.100q, stderr %q, want %q", args, code, stdout, stderr, from.want)
					}
				}
				for line := range strings.Lines(printed) {
					if n, was, _ := strings.Cut(strings.TrimSpace(line), " = "); n == flag {
						if err := os.WriteFile(name, []byte(flag+" = "+was+"\n"), 0o600); err != nil {
							t.Fatal(err)
						}
						if _, stderr, code := millrace(t, nil, "", "serve", "--print-config", "--config="+name); code != exitOK {
							t.Errorf("its default, %s: exit code %d, stderr %q", was, code, stderr)
						}
					}
				}
			})
		}
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
