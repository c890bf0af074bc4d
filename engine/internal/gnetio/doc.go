// Package gnetio is the network on gnet and Linux, behind the interfaces of netio: it
// listens, accepts, reads, and tells a netio.Host. It knows nothing of frames and
// sessions, and it is the engine's only importer of gnet and golang.org/x/sys.
//
//	n := gnetio.New(gnetio.Config{Addrs: []string{"tcp://127.0.0.1:7000"}, Loops: 2}, host)
//	if err := n.Start(ctx); err != nil { ... }
//	defer n.Stop(ctx)
//
// Each loop has one goroutine, started by gnet, on which Host.Open and the methods of the
// Sinks and Turners run. gnet accepts and closes connections; this package reads them, from
// an epoll set of its own per loop (type reader). A callback that blocks holds up its loop
// until Loop.StandIn starts another goroutine that does the loop's work meanwhile. One more
// goroutine, the watcher's, waits for sockets to become writable. Behaviour of gnet that its
// documentation does not promise is listed in reliance_linux.go, each with its test.
package gnetio
