// Package gnetio is the network on gnet and Linux, behind the interfaces of netio: it
// listens, accepts, reads, and tells a netio.Host. It knows nothing of frames and
// sessions, and it is the engine's only importer of gnet and golang.org/x/sys.
//
//	n := gnetio.New(gnetio.Config{Addrs: []string{"tcp://127.0.0.1:7000"}, Loops: 2}, host)
//	if err := n.Start(ctx); err != nil { ... }
//	defer n.Stop(ctx)
//
// Each loop has a goroutine of gnet's, on which the Host's Open, the Sinks and the
// Turners run; the connections it reads itself, from an epoll set of its own (reader). A
// callback that blocks there holds up the loop, until StandIn has another
// goroutine do its work. One more goroutine, the watcher's, waits for sockets to become
// writable. What is relied on beyond gnet's documentation is listed in reliance_linux.go.
package gnetio
