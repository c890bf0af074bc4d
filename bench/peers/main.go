// Command peers serves echo (1/1) and broadcast (1/2) with Millrace's frame and other networking
// libraries, each written as an expert of that library would, so that the suite can compare
// Millrace with them:
//
//	peers NAME [-addr 127.0.0.1:0] [-loops N] [-door tls|ws]
//	peers nats [-addr 127.0.0.1:0] -nats URL -node n2 -nodes 3
//
// It prints "ready tcp://HOST:PORT" when it serves, followed by tls:// or ws:// with another port
// if it supports that transport and -door requests it; WebSocket-only libraries print just ws://.
// nats also serves the handles of a cluster. Other handles close the connection. It is a separate
// module, so that users of Millrace do not depend on these libraries.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
)

// options of every peer.
type options struct {
	addr  string
	loops int // event loops, where the library has them
	doors []string

	nats, node string // URL of the server that the nodes share, and this one's name
	nodes      int
}

// opens reports whether a transport is requested.
func (o options) opens(door string) bool { return slices.Contains(o.doors, door) }

// peers maps a name to a function that serves until the process is killed.
var peers = map[string]func(options) error{
	"gnet":           serveGnet,
	"gnet-each":      serveGnetEach,
	"gnet-async":     serveGnetAsync,
	"gnet-castbatch": serveGnetCastBatch,
	"std":            serveStd,
	"std-lock":       serveStdLock,
	"nbio":           serveNbio,
	"netpoll":        serveNetpoll,
	"zinx":           serveZinx,
	"evio":           serveEvio,
	"gev":            serveGev,
	"gws":            serveGWS,
	"gobwas":         serveGobwas,
	"coder":          serveCoder,
	"nats":           serveNATS,
}

func main() {
	if len(os.Args) < 2 || peers[os.Args[1]] == nil {
		fmt.Fprintf(os.Stderr, "usage: peers NAME [-addr HOST:PORT] [-loops N]; NAME is one of %s\n", strings.Join(names(), ", "))
		os.Exit(64)
	}
	var o options
	flags := flag.NewFlagSet("peers", flag.ExitOnError)
	flags.StringVar(&o.addr, "addr", "127.0.0.1:0", "HOST:PORT to listen on")
	flags.IntVar(&o.loops, "loops", runtime.GOMAXPROCS(0), "event loops")
	flags.Func("door", "listen behind tls or ws too, where the peer can", func(s string) error {
		o.doors = append(o.doors, s)
		return nil
	})
	flags.StringVar(&o.nats, "nats", "", "URL of the NATS server, for the peer nats")
	flags.StringVar(&o.node, "node", "n1", "its name among n1, n2, …")
	flags.IntVar(&o.nodes, "nodes", 1, "how many nodes there are")
	_ = flags.Parse(os.Args[2:]) // ExitOnError
	serveStats()
	if err := peers[os.Args[1]](o); err != nil {
		fmt.Fprintf(os.Stderr, "peers: %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}

func names() []string {
	var out []string
	for name := range peers {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}
