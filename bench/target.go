package bench

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
)

// Target is a server to measure: a command that the suite starts for every run and that prints
// "ready ADDR…" on stdout, or a server that is already running at Addr.
type Target struct {
	Name string `json:"name"`

	// Command and its arguments; empty for a running server. In an argument {conns} stands for a
	// number of connections that is sufficient for the case.
	Command []string `json:"command,omitempty"`
	// OneLoop are arguments that limit the server to one event loop, added in pinned runs.
	OneLoop []string `json:"-"`
	// Doors are arguments for each transport of a case, with {door} for tls, ws or wss: the server
	// then listens with it too, and its ready line has the address, tls://HOST:PORT or
	// ws://HOST:PORT/PATH, in addition to the plain one.
	Doors []string `json:"-"`
	// Nodes are arguments for each server of a case over several nodes, with {nats} for the URL of
	// the NATS server that they share, {node} for the server's name and {nodes} for their number;
	// Command may have these itself. The server answers 6/1 with the nodes that it knows.
	Nodes []string `json:"-"`
	// Env is added to this process's environment.
	Env []string `json:"-"`

	// Addr of a running server, tcp://HOST:PORT or unix:///PATH; with commas also those for TLS and
	// WebSocket, tls://HOST:PORT, ws://HOST:PORT/PATH, wss://HOST:PORT/PATH or auto://HOST:PORT.
	Addr string `json:"addr,omitempty"`
	// PID is its process on this machine, for CPU and memory; 0 means unknown: those figures are
	// then missing.
	PID int `json:"pid,omitempty"`
}

func (t Target) validate() error {
	switch {
	case t.Name == "":
		return errors.New("bench: a target needs a name")
	case len(t.Command) == 0 && t.Addr == "":
		return fmt.Errorf("bench: target %s has neither a command nor an address", t.Name)
	case len(t.Command) > 0 && t.Addr != "":
		return fmt.Errorf("bench: target %s has a command and an address", t.Name)
	}
	if t.Addr != "" {
		return checkAddrs(strings.Split(t.Addr, ","))
	}
	return nil
}

// checkAddrs checks the addresses that the load could use.
func checkAddrs(addrs []string) error {
	usable := 0
	for _, addr := range addrs {
		if doorOf(addr) == "" {
			continue
		}
		usable++
		if strings.HasPrefix(addr, "unix://") {
			continue
		}
		_, port, err := net.SplitHostPort(hostPort(addr))
		if err != nil {
			return fmt.Errorf("bench: address %q: must be HOST:PORT, or a URL such as ws://HOST:PORT/PATH", addr)
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return fmt.Errorf("bench: address %q: the port must be 1 to 65535", addr)
		}
	}
	if usable == 0 {
		return fmt.Errorf("bench: address %q: the load speaks tcp, unix, tls, ws and wss", strings.Join(addrs, " "))
	}
	return nil
}

// hostPort returns an address without its scheme and path.
func hostPort(addr string) string {
	if _, rest, found := strings.Cut(addr, "://"); found {
		addr = rest
	}
	host, _, _ := strings.Cut(addr, "/")
	return host
}

// MillraceTarget returns the server of the given millrace binary with the given flags of serve.
func MillraceTarget(name, binary string, flags ...string) Target {
	command := append([]string{
		binary, "serve", "--addr", "tcp://127.0.0.1:0", "--log-level", "error",
		"--max-conns", "{conns}", "--first-frame-timeout", "5m", // idle connections are a case
	}, flags...)
	return Target{
		Name: name, Command: command, OneLoop: []string{"--loops", "1"},
		Doors: []string{"--addr", "{door}://127.0.0.1:0", "--tls-self-signed"},
		Nodes: []string{"--cluster", "{nats}", "--node", "{node}"},
	}
}

// CommandTarget returns a server started by a command line, split at white space; 'quotes' keep
// words together.
func CommandTarget(name, line string) (Target, error) {
	words, err := splitWords(line)
	if err != nil {
		return Target{}, fmt.Errorf("bench: command of %s: %w", name, err)
	}
	return Target{Name: name, Command: words}, nil
}

func splitWords(line string) ([]string, error) {
	var words []string
	var word strings.Builder
	quote, started := rune(0), false
	for _, r := range line {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, started = r, true
		case r == ' ' || r == '\t' || r == '\n':
			if started {
				words = append(words, word.String())
				word.Reset()
				started = false
			}
		default:
			word.WriteRune(r)
			started = true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("a quote is not closed in %q", line)
	}
	if started {
		words = append(words, word.String())
	}
	if len(words) == 0 {
		return nil, errors.New("it is empty")
	}
	return words, nil
}

// spareConns is how much {conns} exceeds a case's connections.
const spareConns = 256

// args returns the command line of a run with this many connections over these transports.
func (t Target) args(conns int, doors []string, pinned bool) []string {
	args := slices.Clone(t.Command)
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], "{conns}", strconv.Itoa(conns+spareConns))
	}
	for _, door := range doors {
		for _, a := range t.Doors {
			args = append(args, strings.ReplaceAll(a, "{door}", door))
		}
	}
	if pinned {
		args = append(args, t.OneLoop...)
	}
	return args
}
