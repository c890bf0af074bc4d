package bench

import (
	"fmt"
	"slices"
	"strings"
)

// Transports of a connection, by the scheme of a server's address.
const (
	doorPlain = "tcp" // also a unix socket
	doorTLS   = "tls"
	doorWS    = "ws"
	doorWSS   = "wss"
)

var allDoors = []string{doorPlain, doorTLS, doorWS, doorWSS}

func (w Workload) checkDoor() error {
	if w.Door == "" {
		return nil
	}
	seen := map[string]bool{}
	for d := range strings.SplitSeq(w.Door, "+") {
		if !slices.Contains(allDoors, d) || seen[d] {
			return fmt.Errorf("the door %q is not one of %s, or several of them as in tcp+ws", w.Door, strings.Join(allDoors, ", "))
		}
		seen[d] = true
	}
	return nil
}

// doors returns the transports of w's connections, which take turns.
func (w Workload) doors() []string {
	if w.Door == "" {
		return []string{doorPlain}
	}
	return strings.Split(w.Door, "+")
}

// extraDoors returns the transports that a server must offer for w in addition to its plain
// address.
func (w Workload) extraDoors() []string {
	var out []string
	for _, d := range w.doors() {
		if d != doorPlain {
			out = append(out, d)
		}
	}
	if w.Kind == Flood && !slices.Contains(out, doorTLS) {
		out = append(out, doorTLS)
	}
	return out
}

// plain returns the case that w is compared with: the same without transport and without flood.
func (w Workload) plain() Workload {
	w.Door = ""
	if w.Kind == Flood {
		w.Kind, w.Members = Echo, 0
	}
	return w
}

// doorOf returns the transport of an address's scheme; "" if the load generator does not support
// it. An auto:// address supports every transport.
func doorOf(addr string) string {
	scheme, _, found := strings.Cut(addr, "://")
	switch {
	case !found, scheme == "unix", scheme == "tcp4", scheme == "tcp6":
		return doorPlain
	case scheme == "auto", slices.Contains(allDoors, scheme):
		return scheme
	}
	return ""
}

// addressOf returns the address for a transport, with the transport as its scheme.
func addressOf(addrs []string, door string) (string, error) {
	for _, a := range addrs {
		switch d := doorOf(a); {
		case d == door:
			return a, nil
		case d == "auto":
			return door + strings.TrimPrefix(a, "auto"), nil
		}
	}
	return "", errSkipped{noDoor + door + "://"}
}

// noDoor begins the reason for skipping a target that lacks an address of the case's transport.
const noDoor = "it does not listen on "

// doorways compares each case over a transport, or with a flood, with the plain case of the same
// shape: the same target, the same repetition.
func (r *Results) doorways() section {
	s := section{
		Title: "Behind a door", Left: 2,
		Text:  "The cost as a multiple of the same target's plain case in the same repetition; for a case at a fixed rate p50 and p99 too. Below 1 is cheaper.",
		Heads: []string{"case", "target", "plain case", "cost x plain", "quartiles", "p50 x plain", "quartiles", "p99 x plain", "quartiles"},
	}
	for _, name := range r.Header.Cases {
		w, err := ParseWorkload(name)
		if err != nil || w == w.plain() {
			continue
		}
		twin := w.plain().String()
		for _, t := range r.Header.Targets {
			runs, plain := r.pick(name, t.Name), r.pick(twin, t.Name)
			cost := spread(pairedRatios(runs, plain, metricOf(runs)))
			if cost.N == 0 {
				continue
			}
			row := append([]string{name, t.Name, twin}, ratioCells(cost)...)
			if w.open() {
				row = append(append(row, ratioCells(spread(pairedRatios(runs, plain, MetricP50)))...), ratioCells(spread(pairedRatios(runs, plain, MetricP99)))...)
			} else {
				row = append(row, "", "", "", "")
			}
			s.Rows = append(s.Rows, row)
		}
	}
	return s
}
