package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"millrace/services/cluster"
)

// busEnv, if set, makes RunGenerator run a NATS server with its data in that folder.
const busEnv = "BENCH_NATS"

// serveBus runs until the process is killed.
func serveBus(dir string) {
	e, err := cluster.StartEmbedded(cluster.EmbeddedConfig{Dir: dir})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	url := e.URL()
	fmt.Printf("ready tcp://%s %s\n", url[strings.LastIndexByte(url, '@')+1:], url)
	select {}
}

// startBus starts a NATS server in a separate process, so that its CPU can be distinguished from
// the nodes'.
func startBus(ctx context.Context, cpus []int) (*server, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("bench: own program: %w", err)
	}
	dir, err := os.MkdirTemp("", "bench-nats-")
	if err != nil {
		return nil, fmt.Errorf("bench: NATS server: %w", err)
	}
	s, err := startOne(ctx, Target{Name: "NATS", Command: []string{self}, Env: []string{busEnv + "=" + dir}}, Workload{}, false, cpus)
	if err == nil && len(s.addrs) < 2 {
		s.stop()
		err = errors.New("bench: the NATS server does not say its URL: RunGenerator is not first in main")
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	s.data = dir
	return s, nil
}

func (s *server) endBus() {
	s.stop()
	_ = os.RemoveAll(s.data) // what is left is in the system's folder for such
}

// startNodes starts work.Nodes servers of t and a NATS server between them, or takes as many that are running.
func startNodes(ctx context.Context, t Target, work Workload, pinned bool, cpus []int) (*server, error) {
	if t.Addr != "" {
		return runningNodes(t, work)
	}
	if len(t.Nodes) == 0 && !slices.ContainsFunc(t.Command, func(a string) bool { return strings.Contains(a, "{nats}") }) {
		return nil, errSkipped{noNodes}
	}
	bus, err := startBus(ctx, cpus)
	if err != nil {
		return nil, err
	}
	var first *server
	for i := range work.Nodes {
		n, err := startOne(ctx, t.node(bus.addrs[1], i, work.Nodes), work, pinned, cpus)
		if err != nil {
			if first != nil {
				first.stop()
			} else {
				bus.endBus()
			}
			return nil, err
		}
		if first == nil {
			first = n
			first.bus = bus
		} else {
			first.nodes = append(first.nodes, n)
		}
	}
	return first, nil
}

// runningNodes returns the running servers at t's plain addresses.
func runningNodes(t Target, work Workload) (*server, error) {
	var plain []string
	for a := range strings.SplitSeq(t.Addr, ",") {
		if doorOf(a) == doorPlain {
			plain = append(plain, a)
		}
	}
	if len(plain) != work.Nodes {
		return nil, errSkipped{noNodes}
	}
	var all []*server
	for _, a := range plain {
		all = append(all, &server{addrs: []string{a}, log: &tailBuffer{}})
	}
	all[0].nodes = all[1:]
	if len(all) == 1 {
		all[0].pid = t.PID
	}
	return all[0], nil
}

// node returns t as node number i of so many.
func (t Target) node(url string, i, of int) Target {
	fill := strings.NewReplacer("{nats}", url, "{node}", "n"+strconv.Itoa(i+1), "{nodes}", strconv.Itoa(of))
	t.Command = slices.Concat(t.Command, t.Nodes)
	for i, a := range t.Command {
		t.Command[i] = fill.Replace(a)
	}
	return t
}

// serving returns the servers that connections go to.
func (s *server) serving() []*server { return append([]*server{s}, s.nodes...) }

// all returns the servers of a run.
func (s *server) all() []*server {
	if s.bus == nil {
		return s.serving()
	}
	return append(s.serving(), s.bus)
}

// meet waits until all nodes know each other, and records their names.
func (s *server) meet(ctx context.Context) error {
	if s.names != nil {
		return nil // an earlier step of a ramp
	}
	ctx, cancel := context.WithTimeout(ctx, readyWait)
	defer cancel()
	var names []string
	for _, n := range s.serving() {
		addr, err := addressOf(n.addrs, doorPlain)
		if err != nil {
			return err
		}
		name, err := meetAt(ctx, addr, 1+len(s.nodes))
		if err != nil {
			return err
		}
		names = append(names, name)
	}
	s.names = names
	return nil
}

// meetAt polls a node until it knows that many nodes, and returns its name.
func meetAt(ctx context.Context, addr string, want int) (name string, err error) {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", hostPort(addr))
	if err != nil {
		return "", fmt.Errorf("bench: %w", err)
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })()
	in := bufio.NewReader(c)
	for {
		up := 0
		if name, up, err = askNodes(c, in); err != nil || up == want {
			return name, err
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("bench: node %s knows %d nodes of %d after %v", name, up, want, readyWait)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// askNodes sends one 6/1.
func askNodes(c io.Writer, in io.Reader) (name string, up int, err error) {
	if _, err := c.Write(appendFrame(nil, handleNodes, nil)); err != nil {
		return "", 0, fmt.Errorf("bench: 6/1: %w", err)
	}
	var head [frameHeader]byte
	for {
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return "", 0, fmt.Errorf("bench: 6/1: %w", err)
		}
		n := binary.BigEndian.Uint32(head[:])
		if n < keyLen || n > 1<<20 {
			return "", 0, fmt.Errorf("bench: 6/1: a frame of length %d", n)
		}
		body := make([]byte, n-keyLen)
		if _, err := io.ReadFull(in, body); err != nil {
			return "", 0, fmt.Errorf("bench: 6/1: %w", err)
		}
		switch h := binary.BigEndian.Uint32(head[4:]); h {
		case handleNodes:
			return parseNodes(body)
		case handleError:
			return "", 0, errSkipped{"the target answers 6/1 with " + describeError(body)}
		}
	}
}

func parseNodes(body []byte) (name string, up int, err error) {
	var reply struct {
		Nodes []struct {
			Name  string `json:"name"`
			State string `json:"state"`
			Self  bool   `json:"self"`
		} `json:"nodes"`
	}
	if err := json.NewDecoder(bytes.NewReader(body)).Decode(&reply); err != nil {
		return "", 0, fmt.Errorf("bench: 6/1 is answered by %q", clip(body))
	}
	for _, n := range reply.Nodes {
		if n.State == "up" {
			up++
		}
		if n.Self {
			name = n.Name
		}
	}
	if name == "" {
		return "", 0, fmt.Errorf("bench: 6/1 is answered by %q, without the node itself", clip(body))
	}
	return name, up, nil
}
