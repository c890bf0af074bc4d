package bench

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Kind names the scenario of a workload.
type Kind string

// The scenarios. Echo, Broadcast, Idle and Churn need only handles 1/1 and 1/2; the others need
// the reference server's services and are skipped, with the reason, on a target without them.
const (
	Echo      Kind = "echo"      // 1/1, Depth outstanding a connection, or a fixed schedule at Rate
	Broadcast Kind = "broadcast" // 1/2 from one connection to all, Depth broadcasts in flight; a message is a delivery
	Groups    Kind = "groups"    // 1/7 to groups of Members, Depth in flight a group; a message is a delivery
	Idle      Kind = "idle"      // Conns connections that do nothing: memory before and after one echo each
	Churn     Kind = "churn"     // connect, one echo, close, on Conns slots; a message is a connection
	Mixed     Kind = "mixed"     // echo, broadcasts, timers and queries at once; a message is an echo reply
	Sleep     Kind = "sleep"     // 1/4, a handler that blocks for Every
	Timers    Kind = "timers"    // 2/1: Depth timers a connection firing each Every; a message is a firing
	SetKill   Kind = "setkill"   // 2/1 then 2/2, Depth outstanding
	Database  Kind = "database"  // 3/1 world(id), Depth outstanding
	Services  Kind = "services"  // 4/3 sum, Depth outstanding
	Inline    Kind = "inline"    // 4/4 sum through two calls in line
	Cache     Kind = "cache"     // 5/1, 5/2, 5/3 in turn, Depth outstanding
	Locks     Kind = "locks"     // 5/4 then 5/5, one outstanding
	Replay    Kind = "replay"    // the requests of a recording of serve --record-bodies, Depth outstanding, repeatedly
	Flood     Kind = "flood"     // echo while there are Members half-open TLS handshakes

	// Over Nodes servers that share a NATS server; connections are distributed over them.
	ClusterCall  Kind = "cluster-call"  // 6/2 of another node than the connection's, Depth outstanding
	ClusterGroup Kind = "cluster-group" // like Groups, with members on all nodes
	ClusterUser  Kind = "cluster-user"  // 6/4 to a user on the next node, Depth outstanding; a message is a delivery
	ClusterBind  Kind = "cluster-bind"  // 6/3 of Depth users in turn, all outstanding
	Room         Kind = "room"          // 6/5 to a separate room for each connection, Depth outstanding
)

// Workload is one scenario with its parameters. It is sent to the generator processes as JSON.
type Workload struct {
	Kind    Kind          `json:"kind"`
	Door    string        `json:"door,omitempty"` // tls, ws or wss; with several, as in tcp+ws, connections take turns; default plain
	Conns   int           `json:"conns"`
	Depth   int           `json:"depth,omitempty"`   // requests outstanding a connection; default 1
	Body    int           `json:"body,omitempty"`    // bytes; default 64 where the kind has bodies
	Rate    float64       `json:"rate,omitempty"`    // requests a second over all connections; 0 = closed loop
	Percent float64       `json:"percent,omitempty"` // Rate as a part of what the base answers in a closed loop; see Config.Base
	Members int           `json:"members,omitempty"` // of a group, default 10, over nodes 100; half-open handshakes of a flood, default 500
	Nodes   int           `json:"nodes,omitempty"`   // servers of one cluster, default 3 where the kind has several
	Every   time.Duration `json:"every,omitempty"`   // timer period or sleep
	File    string        `json:"file,omitempty"`    // of a replay
}

// Limits of a workload: what one generator machine can hold.
const (
	maxConns = 1 << 20
	maxDepth = 1 << 16
	maxBody  = 16 << 20
	maxNodes = 64
	maxBinds = 64 // users of one session
)

// workloadDefaults are the values a spec string may leave out.
var workloadDefaults = map[Kind]Workload{
	Echo:      {Depth: 1, Body: 64},
	Broadcast: {Depth: 1, Body: 64},
	Groups:    {Depth: 1, Body: 64, Members: 10},
	Idle:      {Body: 64},
	Churn:     {Body: 64},
	Mixed:     {Depth: 1, Body: 64, Every: 20 * time.Millisecond},
	Sleep:     {Depth: 1, Every: 2 * time.Millisecond},
	Timers:    {Depth: 10, Every: 20 * time.Millisecond},
	SetKill:   {Depth: 8},
	Database:  {Depth: 1},
	Services:  {Depth: 1},
	Inline:    {Depth: 1},
	Cache:     {Depth: 1, Body: 64},
	Locks:     {Depth: 1},
	Replay:    {Depth: 1},
	Flood:     {Depth: 1, Body: 64, Members: 500},

	ClusterCall:  {Depth: 1, Nodes: 3},
	ClusterGroup: {Depth: 1, Body: 64, Members: 100, Nodes: 3},
	ClusterUser:  {Depth: 1, Body: 64, Nodes: 3},
	ClusterBind:  {Depth: 1, Nodes: 3},
	Room:         {Depth: 1, Nodes: 3},
}

// ParseWorkload parses [DOOR[+DOOR]-]KIND/CONNSxDEPTH[@RATE][/OPTION…], the form that String
// writes. An option is a body size (64, 4KiB), a duration (20ms, for timers and sleep), gN (members
// of a group, handshakes of a flood) or nN (nodes); file:PATH, as the last one, is the recording of
// a replay, or a folder of its files.
//
//	echo/100x32        echo/100x8/4KiB        echo/1000x1@20000      echo/100@50%
//	broadcast/1000x8   idle/15000             timers/100x10/20ms
//	tls-echo/100x32    tls-churn/64           tcp+ws-broadcast/1000x8
//	replay/100x8/file:/tmp/traffic.pcapng
//	cluster-call/64x1/n5
func ParseWorkload(spec string) (Workload, error) {
	shape, file, _ := strings.Cut(strings.TrimSpace(spec), "/file:")
	parts := strings.Split(shape, "/")
	door, kind, behind := strings.Cut(parts[0], "-")
	if _, whole := workloadDefaults[Kind(parts[0])]; !behind || whole {
		door, kind, behind = "", parts[0], false
	}
	w, known := workloadDefaults[Kind(kind)]
	if !known {
		return Workload{}, fmt.Errorf("bench: workload %q: unknown kind %q", spec, kind)
	}
	w.Kind, w.Door, w.File = Kind(kind), door, file
	if behind && door == "" {
		return Workload{}, fmt.Errorf("bench: workload %q: no transport before %s, as in tls-%s", spec, kind, kind)
	}
	if len(parts) < 2 {
		return Workload{}, fmt.Errorf("bench: workload %q: no connections, as in %s/100x1", spec, parts[0])
	}
	if err := w.parseShape(parts[1]); err != nil {
		return Workload{}, fmt.Errorf("bench: workload %q: %w", spec, err)
	}
	for _, p := range parts[2:] {
		if err := w.parseOption(p); err != nil {
			return Workload{}, fmt.Errorf("bench: workload %q: %w", spec, err)
		}
	}
	if err := w.validate(); err != nil {
		return Workload{}, fmt.Errorf("bench: workload %q: %w", spec, err)
	}
	return w, nil
}

func (w *Workload) parseShape(s string) (err error) {
	s, rate, open := strings.Cut(s, "@")
	if open {
		to := &w.Rate
		number, relative := strings.CutSuffix(rate, "%")
		if relative {
			to = &w.Percent
		}
		if *to, err = strconv.ParseFloat(number, 64); err != nil || !(*to > 0) || math.IsInf(*to, 0) {
			return fmt.Errorf("rate %q is not a positive number", rate)
		}
	}
	conns, depth, deep := strings.Cut(s, "x")
	if w.Conns, err = strconv.Atoi(conns); err != nil {
		return fmt.Errorf("connections %q is not a number", conns)
	}
	if deep {
		if w.Depth, err = strconv.Atoi(depth); err != nil {
			return fmt.Errorf("depth %q is not a number", depth)
		}
	}
	return nil
}

func (w *Workload) parseOption(s string) error {
	for prefix, to := range map[string]*int{"g": &w.Members, "n": &w.Nodes} {
		if n, ok := strings.CutPrefix(s, prefix); ok {
			m, err := strconv.Atoi(n)
			*to = m
			return err
		}
	}
	if d, err := time.ParseDuration(s); err == nil && s != "0" {
		w.Every = d
		return nil
	}
	n, err := ParseSize(s)
	w.Body = n
	return err
}

func (w Workload) validate() error {
	var errs []error
	between := func(what string, n, lo, hi int) {
		if n < lo || n > hi {
			errs = append(errs, fmt.Errorf("%s is %d, not between %d and %d", what, n, lo, hi))
		}
	}
	between("connections", w.Conns, 1, maxConns)
	between("depth", w.Depth, min(1, workloadDefaults[w.Kind].Depth), maxDepth)
	between("body", w.Body, 0, maxBody)
	if w.Kind == Groups || w.Kind == ClusterGroup {
		between("members", w.Members, 1, w.Conns)
	}
	if workloadDefaults[w.Kind].Nodes > 0 {
		between("nodes", w.Nodes, 1, maxNodes)
	} else {
		between("nodes", w.Nodes, 0, 0)
	}
	if w.Kind == ClusterBind {
		between("depth", w.Depth, 1, maxBinds)
	}
	if w.Kind == Flood {
		between("half-open handshakes", w.Members, 1, maxDepth)
	}
	if (w.Kind == Replay) != (w.File != "") {
		errs = append(errs, errors.New("a replay has a recording, as in replay/100x8/file:PATH, and nothing else has"))
	}
	errs = append(errs, w.checkDoor())
	if w.open() && w.Kind != Echo && w.Kind != Flood {
		errs = append(errs, errors.New("only echo and flood run on a fixed schedule"))
	}
	if w.Percent > 100 {
		errs = append(errs, fmt.Errorf("%g %% of the saturated rate is over 100", w.Percent))
	}
	if (w.Kind == Timers || w.Kind == Sleep) && w.Every < time.Millisecond {
		errs = append(errs, fmt.Errorf("the period is %v, not at least 1ms", w.Every))
	}
	return errors.Join(errs...)
}

// open reports whether requests are sent on a fixed schedule.
func (w Workload) open() bool { return w.Rate > 0 || w.Percent > 0 }

// closed returns w in a closed loop, which saturates a server. A flood's rate is that of the echo
// without it.
func (w Workload) closed() Workload {
	w.Rate, w.Percent = 0, 0
	if w.Kind == Flood {
		w.Kind, w.Members = Echo, 0
	}
	return w
}

// String returns the spec that ParseWorkload parses; it names the case in every report.
func (w Workload) String() string {
	d := workloadDefaults[w.Kind]
	var b strings.Builder
	if w.Door != "" {
		b.WriteString(w.Door + "-")
	}
	fmt.Fprintf(&b, "%s/%d", w.Kind, w.Conns)
	if w.Depth > 0 && (!w.open() || w.Depth != d.Depth) {
		fmt.Fprintf(&b, "x%d", w.Depth)
	}
	switch {
	case w.Percent > 0:
		fmt.Fprintf(&b, "@%s%%", strconv.FormatFloat(w.Percent, 'f', -1, 64))
	case w.Rate > 0:
		fmt.Fprintf(&b, "@%s", strconv.FormatFloat(w.Rate, 'f', -1, 64))
	}
	if w.Members != d.Members {
		fmt.Fprintf(&b, "/g%d", w.Members)
	}
	if w.Nodes != d.Nodes {
		fmt.Fprintf(&b, "/n%d", w.Nodes)
	}
	if w.Body != d.Body {
		fmt.Fprintf(&b, "/%s", formatSize(w.Body))
	}
	if w.Every != d.Every {
		fmt.Fprintf(&b, "/%v", w.Every)
	}
	if w.File != "" {
		b.WriteString("/file:" + w.File)
	}
	return b.String()
}

// Unit returns what one message of this workload is.
func (w Workload) Unit() string {
	switch w.Kind {
	case Broadcast, Groups, ClusterGroup, ClusterUser:
		return "delivery"
	case Churn:
		return "connection"
	case Timers:
		return "firing"
	case Database:
		return "query"
	default:
		return "message"
	}
}

// multiProcess reports whether several generator processes can share the load. A broadcast's sender
// must see every receiver, so it is a single process.
func (w Workload) multiProcess() bool {
	return w.Kind != Broadcast && w.Kind != Groups && w.Kind != Mixed && w.Kind != ClusterGroup
}

var sizeUnits = []struct {
	name string
	n    int
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

// ParseSize reads a number of bytes with an optional KiB, MiB or GiB.
func ParseSize(s string) (int, error) {
	unit := 1
	num := s
	for _, u := range sizeUnits {
		if rest, ok := strings.CutSuffix(s, u.name); ok {
			num, unit = rest, u.n
			break
		}
	}
	n, err := strconv.Atoi(num)
	if err != nil || n < 0 || n > math.MaxInt/unit {
		return 0, fmt.Errorf("bench: %q is not a size in bytes", s)
	}
	return n * unit, nil
}

func formatSize(n int) string {
	for _, u := range sizeUnits[:3] {
		if n >= u.n && n%u.n == 0 {
			return strconv.Itoa(n/u.n) + u.name
		}
	}
	return strconv.Itoa(n)
}
