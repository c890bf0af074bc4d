package main

import (
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"millrace/codec"
	"millrace/engine"
)

// file writes a config file for a test.
func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "millrace.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAWrongSettingIsOneLineThatNamesTheWayOut(t *testing.T) {
	plain := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(plain, []byte("keep me"), 0o600); err != nil {
		t.Fatal(err)
	}
	marked := filepath.Join(t.TempDir(), "marked")
	if err := os.WriteFile(marked, []byte("\ufefftoken\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		args string // of serve, split at spaces
		env  string // variables, split at spaces
		file string
		want string // FILE stands for the file's name
	}{
		{name: "size", args: "--max-frame 12x", want: `--max-frame "12x": must be bytes, 1 or more, such as 65536, 64KiB, 1MiB or 2GiB`},
		{name: "size overflow", args: "--memory-budget 99999999999GiB", want: `--memory-budget "99999999999GiB": must be bytes, 1 or more, such as 65536, 64KiB, 1MiB or 2GiB`},
		{name: "zero count", args: "--loops 0", want: `--loops "0": must be a whole number, 1 or more`},
		{name: "no count", args: "--workers many", want: `--workers "many": must be a whole number, 1 or more`},
		{name: "count out of range", args: "--loops 99999", want: `--loops 99999: must be 1 to 1024`},
		{name: "limit", args: "--max-conns-per-ip=-1", want: `--max-conns-per-ip "-1": must be a whole number, or off`},
		{name: "negative limit", args: "--max-conns-per-ip -1", want: `--max-conns-per-ip "-1": must be a whole number, or off`},
		{name: "negative size", args: "--max-frame -1", want: `--max-frame "-1": must be bytes, 1 or more, such as 65536, 64KiB, 1MiB or 2GiB`},
		{name: "negative period", args: "--linger -1s", want: `--linger "-1s": must be a duration above 0, such as 1500ms, 10s or 2m`},
		{name: "a flag is no value", args: "--linger --loops 1", want: `--linger "": needs a value (one that starts with - is written --linger=VALUE)`},
		{name: "auto", args: "--max-conns 0", want: `--max-conns "0": must be a whole number, 1 or more, or auto`},
		{name: "duration", args: "--drain-timeout 30", want: `--drain-timeout "30": must be a duration such as 1500ms, 10s or 2m, or off`},
		{name: "negative duration", args: "--idle-timeout=-1s", want: `--idle-timeout "-1s": must be a duration such as 1500ms, 10s or 2m, or off`},
		{name: "duration that can't be off", args: "--linger off", want: `--linger "off": must be a duration above 0, such as 1500ms, 10s or 2m`},
		{name: "duration too short", args: "--frame-timeout 1ms", want: `--frame-timeout 1ms: must be at least 10ms, or off`},
		{name: "buffer", args: "--socket-recv-buffer big", want: `--socket-recv-buffer "big": must be bytes such as 65536, 64KiB or 1MiB, or off for the system's own`},
		{name: "address twice", args: "--addr tcp://127.0.0.1:7000 --addr unix:///x --addr tcp://127.0.0.1:7000", want: `--addr "tcp://127.0.0.1:7000": given twice; leave one out`},
		{name: "no place", args: "--drain-to ws//x", want: `--drain-to "ws//x": must be HOST:PORT, or a URL such as ws://HOST:PORT/PATH`},
		{name: "a place without a port", args: "--drain-to [::1]", want: `--drain-to "[::1]": must be HOST:PORT, or a URL such as ws://HOST:PORT/PATH`},
		{name: "no name for a node", args: "--node a.b", want: `--node "a.b": must be 1 to 64 letters, digits, - and _`},
		{name: "no prefix", args: "--cluster nats://127.0.0.1:1 --cluster-prefix a.b", want: `--cluster-prefix "a.b": must be 1 to 64 letters, digits, - and _`},
		{name: "a lease too short", args: "--cluster nats://127.0.0.1:1 --cluster-lease 1ms", want: `--cluster-lease 1ms: must be at least 100ms`},
		{name: "keep-alive too long", args: "--keep-alive 10h", want: `--keep-alive 10h0m0s: must be at most 9h6m7s, or off`},
		{name: "keep-alive probes too far apart", args: "--keep-alive-every 10h", want: `--keep-alive-every 10h0m0s: must be at most 9h6m7s`},
		{name: "too many lanes", args: "--db postgres://127.0.0.1:1/x --db-lanes 65", want: `--db-lanes 65: must be 1 to 64`},
		{name: "too long a burst", args: "--db postgres://127.0.0.1:1/x --db-burst 99999", want: `--db-burst 99999: must be 1 to 256`},
		{name: "too many slow connections", args: "--db postgres://127.0.0.1:1/x --db-slow 4294967296", want: `--db-slow 4294967296: must be 1 to 65536`},
		{name: "no copies", args: "--cluster nats://127.0.0.1:1 --cluster-replicas 0", want: `--cluster-replicas "0": must be a whole number, 1 or more`},
		{name: "too many copies", args: "--cluster nats://127.0.0.1:1 --cluster-replicas 9", want: `--cluster-replicas 9: must be 1 to 5`},
		{name: "no credentials", args: "--cluster nats://127.0.0.1:1 --cluster-creds /no/such", want: `--cluster-creds "/no/such": no such file or directory`},
		{name: "wrong credentials", args: "--cluster nats://127.0.0.1:1 --cluster-creds " + plain, want: `--cluster-creds "` + plain + `": no credentials: a user's JWT and seed, as nsc writes them`},
		{name: "no seed", args: "--cluster nats://127.0.0.1:1 --cluster-nkey " + plain, want: `--cluster-nkey "` + plain + `": no seed of a user: a line that begins with SU`},
		{name: "no authority", args: "--cluster nats://127.0.0.1:1 --cluster-tls-ca " + plain, want: `--cluster-tls-ca "` + plain + `": no certificate in PEM`},
		{name: "no key", args: "--cluster nats://127.0.0.1:1 --cluster-tls-cert " + plain, want: `--cluster-tls-cert "` + plain + `": its key, --cluster-tls-key, is missing`},
		{name: "no certificate", args: "--cluster nats://127.0.0.1:1 --cluster-tls-key " + plain, want: `--cluster-tls-key "` + plain + `": its certificate, --cluster-tls-cert, is missing`},
		{name: "credentials of nobody", args: "--cluster embedded --cluster-creds " + plain, want: `--cluster-creds: needs --cluster=nats://…; give it, or leave this out`},
		{name: "an authority of nobody", args: "--cluster-tls-ca " + plain, want: `--cluster-tls-ca: needs --cluster=nats://…; give it, or leave this out`},
		{name: "a token for nothing", args: "--admin-token-file /no/such", want: `--admin-token-file: needs --admin; give it, or leave this out`},
		{name: "changes of nothing", args: "--admin-write", want: `--admin-write: needs --admin; give it, or leave this out`},
		{name: "profiles of nothing", env: "MILLRACE_ADMIN_PPROF=true", want: `--admin-pprof: needs --admin; give it, or leave this out (from MILLRACE_ADMIN_PPROF)`},
		{name: "traces of nothing", file: "admin-trace = \"1s\"\n", want: `--admin-trace: needs --admin; give it, or leave this out (from FILE)`},
		{name: "TLS for nobody", args: "--tls-self-signed --addr ws://127.0.0.1:0", want: `--tls-self-signed: no --addr uses it; give one of tls://, wss:// or auto://, or leave this out`},
		{name: "a wrong file", args: "--config /dev/zero", want: `--config "/dev/zero": longer than 256KiB; is it the right file?`},
		{name: "a file of brackets", file: "loops = " + strings.Repeat("[", 2_000_000), want: `--config "FILE": longer than 256KiB; is it the right file?`},
		{name: "colours in a key", file: "\"lo\\u001b[31mops\" = 1\n", want: `--config "FILE": lo\x1b[31mops: no setting has this name; see millrace serve --help`},
		{name: "a variable named like a secret", env: "MILLRACE_TOKEN=x", want: `no setting has the name MILLRACE_TOKEN; see millrace serve --help`},
		{name: "a wrong token file", args: "--admin 127.0.0.1:0 --admin-token-file /dev/zero", want: `--admin-token-file "/dev/zero": longer than 4KiB; is it the right file?`},
		{name: "a token that can't be sent", args: "--admin 127.0.0.1:0 --admin-token-file " + marked, want: `--admin-token-file "` + marked + `": a token must consist of visible characters; is it UTF-8 text without a byte order mark?`},
		{name: "a path too long", args: "--admin unix:///" + strings.Repeat("p", 107), want: `--admin "unix:///` + strings.Repeat("p", 107) + `": a unix socket's path has at most 107 bytes`},
		{name: "a place on two lines", file: "drain-to = \"a\\nb:1\"\n", want: `--drain-to "a\nb:1": must be HOST:PORT, or a URL such as ws://HOST:PORT/PATH (from FILE)`},
		{name: "adjust far upward", args: "--length-adjust=9223372036854775807", want: `--length-adjust 9223372036854775807: an empty body's length would be negative`},
		{name: "adjust downward", args: "--length-adjust=-99999999999", want: `--length-adjust -99999999999: no length would leave room for a frame, which has at least 4 bytes after its length`},
		{name: "no cluster", args: "--cluster garbage", want: `--cluster "garbage": cluster: a URL must be nats://host:port`},
		{name: "another scheme", args: "--cluster nats://127.0.0.1:4222,http://127.0.0.1:1", want: `--cluster "nats://127.0.0.1:4222,http://127.0.0.1:1": cluster: a URL must be nats://host:port`},
		{name: "udp", args: "--addr udp://127.0.0.1:1", want: `--addr "udp://127.0.0.1:1": UDP has no sessions; only tcp:// and unix:// are served`},
		{name: "no scheme", args: "--addr 127.0.0.1:7000", want: `--addr "127.0.0.1:7000": write it as tcp://host:port or unix:///path`},
		{name: "no port", args: "--addr tcp://127.0.0.1", want: `--addr "tcp://127.0.0.1": needs host:port, such as tcp://127.0.0.1:7000`},
		{name: "IPv6 without brackets", args: "--addr tcp://::1:7000", want: `--addr "tcp://::1:7000": write an IPv6 address in brackets, such as tcp://[::1]:7000`},
		{name: "port out of range", args: "--addr tcp://127.0.0.1:70000", want: `--addr "tcp://127.0.0.1:70000": the port must be 0 to 65535`},
		{name: "unix without a path", args: "--addr unix://", want: `--addr "unix://": needs a path, such as unix:///run/millrace.sock`},
		{name: "dispatch", args: "--dispatch fast", want: `--dispatch "fast": must be one of adaptive, ordered, inline`},
		{name: "accept", args: "--accept both", want: `--accept "both": must be one of reuseport, single`},
		{name: "balance", args: "--balance random", want: `--balance "random": must be one of round-robin, least-connections, source-hash`},
		{name: "handle", args: "--handle-dispatch 1=inline", want: `--handle-dispatch "1=inline": must be MAIN/SUB=MODE with a mode of adaptive, ordered or inline, such as 1/4=ordered`},
		{name: "handle's wait", args: "--handle-wait 1/4", want: `--handle-wait "1/4": must be MAIN/SUB=D with a duration such as 50ms, or off, such as 1/4=off`},
		{name: "short handle's wait", args: "--handle-wait 1/4=1us", want: `--handle-wait "1/4=1µs": must be at least 1ms, or off`},
		{name: "byte rate", args: "--byte-rate lots", want: `--byte-rate "lots": must be bytes such as 65536, 64KiB or 1MiB, or off`},
		{name: "log level", args: "--log-level loud", want: `--log-level must be one of "debug","info","warn","error" but got "loud"; see millrace --help`},
		{name: "switch", args: "--no-delay=maybe", want: `--no-delay: bool value must be true, 1, yes, false, 0 or no but got "maybe"; see millrace --help`},
		{name: "misspelt flag", args: "--max-fram 1", want: `unknown flag --max-fram, did you mean "--max-frame"?`},
		{name: "argument", args: "now", want: `unexpected argument now; see millrace --help`},
		{name: "no value", args: "--loops", want: `--loops "": needs a value (one that starts with - is written --loops=VALUE)`},
		{name: "length width", args: "--length-width 3", want: `--length-width 3: must be 2 or 4`},
		{name: "frame over its length field", args: "--length-width 2 --max-frame 1MiB", want: `--max-frame 1048576: a length field of 2 bytes holds at most 65535`},
		{name: "frame too small", args: "--max-frame 3", want: `--max-frame 3: a frame has at least 4 bytes after its length`},
		{name: "adjust", args: "--length-adjust=99", want: `--length-adjust 99: an empty body's length would be negative`},
		{name: "prefix", args: "--prefix xyz", want: `--prefix "xyz": must be bytes in hexadecimal, such as cafe01`},
		{name: "heartbeat without frames", args: "--heartbeat 1s --system-frames=false", want: `--heartbeat 1s: needs system frames, which --system-frames=false turns off`},
		{name: "two faults", args: "--loops 5000 --workers 99999", want: `--loops 5000: must be 1 to 1024; --workers 99999: must be 1 to 65536`},

		{name: "variable", env: "MILLRACE_LOOPS=x", want: `--loops "x": must be a whole number, 1 or more (from MILLRACE_LOOPS)`},
		{name: "variable out of range", env: "MILLRACE_LOOPS=5000", want: `--loops 5000: must be 1 to 1024 (from MILLRACE_LOOPS)`},
		{name: "misspelt variable", env: "MILLRACE_LOPS=1", want: `no setting has the name MILLRACE_LOPS; did you mean MILLRACE_LOOPS?`},
		{name: "strange variable", env: "MILLRACE_COLOUR=1", want: `no setting has the name MILLRACE_COLOUR; see millrace serve --help`},

		{name: "key's value", file: "loops = \"x\"\n", want: `--loops "x": must be a whole number, 1 or more (from FILE)`},
		{name: "key's type", file: "loops = 1.5\n", want: `--loops "1.5": must be a string, a whole number or true or false (from FILE)`},
		{name: "key's range", file: "loops = 5000\n", want: `--loops 5000: must be 1 to 1024 (from FILE)`},
		{name: "misspelt key", file: "lops = 1\n", want: `--config "FILE": lops: no setting has this name; did you mean loops?`},
		{name: "table", file: "[engine]\nloops = 1\n", want: `--config "FILE": engine: no setting has this name; see millrace serve --help`},
		{name: "no TOML", file: "loops: 1\n", want: `--config "FILE": line 1: expected '.' or '=', but got ':' instead`},
		{name: "a file that names a file", file: "config = \"x\"\n", want: `--config "FILE": config: no setting has this name; see millrace serve --help`},
		{name: "no file", args: "--config /nonexistent/m.toml", want: `--config "/nonexistent/m.toml": open /nonexistent/m.toml: no such file or directory`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			args := append([]string{"serve"}, strings.Fields(c.args)...)
			want := c.want
			if c.file != "" {
				path := file(t, c.file)
				args = append(args, "--config", path)
				want = strings.ReplaceAll(want, "FILE", path)
			}
			stdout, stderr, code := millrace(t, strings.Fields(c.env), "", args...)
			if stderr != "millrace: "+want+"\n" {
				t.Errorf("got  %swant millrace: %s", stderr, want)
			}
			if code != exitUsage || stdout != "" {
				t.Errorf("exit code %d, stdout %q, want 64 and nothing", code, stdout)
			}
		})
	}
}

// Settings that only the system can refuse are refused at start.
func TestAnAddressThatCannotBeUsedIsOneLine(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "file")
	if err := os.WriteFile(plain, []byte("keep me"), 0o600); err != nil {
		t.Fatal(err)
	}
	sub := filepath.Join(dir, "sub")
	if err := os.Mkdir(sub, 0o700); err != nil {
		t.Fatal(err)
	}
	inside := filepath.Join(sub, "inside")
	if err := os.WriteFile(inside, []byte("keep me"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, addr string }{
		{"an address of another machine", "tcp://192.0.2.1:7000"},
		{"a name that is none", "tcp://no.such.host.invalid:7000"},
		{"a directory that is not there", "unix://" + dir + "/none/x.sock"},
		{"a plain file", "unix://" + plain},
		{"a directory", "unix://" + sub},
	} {
		t.Run(c.name, func(t *testing.T) {
			stdout, stderr, code := millrace(t, nil, "", "serve", "--log-level", "error", "--addr", c.addr)
			if code != exitUsage || stdout != "" || strings.Count(stderr, "\n") != 1 ||
				!strings.Contains(stderr, c.addr) || !strings.Contains(stderr, "--addr") {
				t.Errorf("exit code %d, stdout %q, stderr %q; want 64 and one line with --addr and %s", code, stdout, stderr, c.addr)
			}
		})
	}
	for _, path := range []string{plain, inside} {
		if b, err := os.ReadFile(path); string(b) != "keep me" {
			t.Errorf("%s: %q, %v after a server was told to listen there", path, b, err)
		}
	}
}

func TestAnAddressInUseIs69(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	other := serve(t)
	sock := "unix://" + filepath.Join(t.TempDir(), "s.sock")
	unix := serve(t, "--addr", sock)
	for _, addr := range []string{"tcp://" + ln.Addr().String(), other.ready[0], unix.ready[0]} {
		for _, mode := range []string{"reuseport", "single"} {
			stdout, stderr, code := millrace(t, nil, "", "serve", "--addr", "tcp://127.0.0.1:0", "--addr", addr, "--accept", mode, "--max-conns", "10")
			if code != exitNoServer || stdout != "" || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, strings.TrimPrefix(addr, "tcp://")) {
				t.Errorf("%s, %s: exit code %d, stdout %q, stderr %q; want 69 and one line that names it", addr, mode, code, stdout, stderr)
			}
		}
	}
	other.dial().echo("still there")
	unix.dial().echo("still there")
}

func TestAFlagWinsOverAVariableOverTheFileOverTheDefault(t *testing.T) {
	path := file(t, `# comments are welcome
addr = ["tcp://127.0.0.1:1", "unix:///tmp/a,b"]
loops = 3
workers = 3
max-groups = 3
idle-timeout = "3s"
max-frame = 4096
no-delay = false
`)
	env := []string{"MILLRACE_WORKERS=5", "MILLRACE_MAX_GROUPS=5", "MILLRACE_CONFIG=" + path, "MILLRACE_KEEP_ALIVE=off", "MILLRACE_SYSTEM_FRAMES=false"}
	stdout, stderr, code := millrace(t, env, "", "serve", "--max-groups", "6", "--max-groups", "7", "--print-config", "--memory-budget", "1536KiB")
	if code != 0 || stderr != "" {
		t.Fatalf("exit code %d, stderr %q", code, stderr)
	}
	for _, want := range []string{
		`addr = ["tcp://127.0.0.1:1", "unix:///tmp/a,b"]`, "loops = 3", "workers = 5", "max-groups = 7", `idle-timeout = "3s"`,
		`max-frame = "4KiB"`, `keep-alive = "off"`, "system-frames = false", "no-delay = false", `memory-budget = "1536KiB"`,
		"max-tasks = 1024", `max-conns = "auto"`,
	} {
		if !strings.Contains("\n"+stdout, "\n"+want+"\n") {
			t.Errorf("--print-config has no line %s:\n%s", want, stdout)
		}
	}
	again, _, code := millrace(t, nil, "", "serve", "--print-config", "--config", file(t, stdout))
	if code != 0 || again != stdout {
		t.Errorf("printed, read and printed again:\n%s\nwant\n%s", again, stdout)
	}
}

func TestEveryAddrOfTheStrongestPlaceIsTaken(t *testing.T) {
	path := file(t, `addr = "tcp://127.0.0.1:1"`)
	for _, c := range []struct {
		name string
		env  []string
		args []string
		want string
	}{
		{"file", nil, nil, `addr = ["tcp://127.0.0.1:1"]`},
		{"variable", []string{"MILLRACE_ADDR=tcp://127.0.0.1:2, unix:///tmp/x"}, nil, `addr = ["tcp://127.0.0.1:2", "unix:///tmp/x"]`},
		{"flags", []string{"MILLRACE_ADDR=tcp://127.0.0.1:2"}, []string{"--addr", "tcp://127.0.0.1:3", "--addr=unix:///tmp/a,b"}, `addr = ["tcp://127.0.0.1:3", "unix:///tmp/a,b"]`},
	} {
		t.Run(c.name, func(t *testing.T) {
			stdout, stderr, code := millrace(t, c.env, "", append([]string{"serve", "--print-config", "--config", path}, c.args...)...)
			if first, _, _ := strings.Cut(stdout, "\n"); code != 0 || first != c.want {
				t.Errorf("exit code %d, got %s, want %s; stderr %s", code, first, c.want, stderr)
			}
		})
	}
}

// The flags and the engine's Config can't drift apart.
func TestEveryFieldOfConfigHasItsFlag(t *testing.T) {
	help, _, code := millrace(t, nil, "", "serve", "--help")
	if code != 0 {
		t.Fatalf("--help: exit code %d", code)
	}
	for _, of := range []reflect.Type{reflect.TypeFor[engine.Config](), reflect.TypeFor[codec.Layout]()} {
		for _, field := range reflect.VisibleFields(of) {
			switch name := field.Name; name {
			case "Limits", "Timeouts", "Overload", "Socket", "Doors": // their fields come one by one
			case "Layout", "Pool", "Admit", "OnStall", "OnUpgrade", "OnFlight", "OnNearMiss", "Tap", "Logger", "Framings": // the frame's own flags; an embedder's
			default:
				if flag := "--" + flagOf(name); !strings.Contains(help, flag+"=") && !strings.Contains(help, flag+" ") && !strings.Contains(help, "--[no-]"+flagOf(name)) {
					t.Errorf("%s.%s has no flag %s", of, name, flag)
				}
			}
		}
	}
}

// The defaults of serve's flags are the engine's defaults.
func TestDefaultsAreTheEngines(t *testing.T) {
	got := parse(t).WithDefaults()
	want := engine.Config{Addrs: []string{"tcp://127.0.0.1:7000"}}.WithDefaults()
	got.Logger, got.Handles, got.Layout.Prefix, got.Layout.LengthWidth = want.Logger, nil, nil, 0
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestOffReachesTheEngine(t *testing.T) {
	cfg := parse(t, "--first-frame-timeout=0", "--frame-timeout=off", "--idle-timeout=0s", "--heartbeat=off", "--keep-alive=0",
		"--user-timeout=off", "--spare-workers=0", "--max-conns-per-ip=off", "--socket-send-buffer=0").WithDefaults()
	if cfg.FirstFrameTimeout != engine.Off || cfg.FrameTimeout != engine.Off || cfg.IdleTimeout != 0 || cfg.Heartbeat != 0 || cfg.KeepAlive != engine.Off ||
		cfg.UserTimeout != engine.Off || cfg.SpareWorkers != engine.Off || cfg.MaxConnsPerIP != 0 || cfg.SocketSendBuffer != 0 {
		t.Errorf("something is still on: %+v", cfg)
	}
}
