// Package client is a client of a Millrace server: typed calls, notifications, reconnects and
// heartbeats. It imports neither the engine nor a database driver.
//
//	c, err := client.Dial(ctx, client.Config{Addrs: []string{"tcp://127.0.0.1:7000"}})
//	sum, err := client.Call[Sum, Total](ctx, c, client.Handle(4, 3), Sum{A: 1, B: 2})
//	c.On(client.Handle(4, 6), func(p codec.Packet) { log.Printf("%s", p.Body) })
//	defer c.Close()
//
// Answers on one handle arrive in the order of its requests, including ERRORs, so the n-th answer on
// a handle belongs to the n-th call; if the layout has a sequence number, answers are matched by it.
// An answer never reaches another caller: if it can't be determined which call an answer belongs to,
// the connection is closed and its calls end with ErrLost. Without sequence numbers a handle can be
// used either for calls, or for Send, or for packets that the server pushes (On), but not for two of
// these.
//
// One goroutine reads, one writes, one connects and sends PINGs. Call and Send may be called from
// any goroutine; concurrent calls are sent in one write. Functions of On run on the reading
// goroutine: they must not block, and must not Call. OnConnect runs on a goroutine of its own, and
// may Call with the context that it gets.
//
// When the connection is lost, calls already written end with ErrLost: they may have been executed.
// Others, and calls made meanwhile, wait for the next connection until their context ends. The client
// reconnects after 50 ms, then after twice as long up to 5 s, with jitter, using the addresses in
// turn. After a GOAWAY it finishes what is in progress and reconnects, first to the address in the
// GOAWAY, if any.
//
// With Config.Resume, and a server that supports it, the next connection resumes the session, also
// on another node of a cluster: calls in progress get their answers, every packet is processed
// exactly once, and pushes are neither lost nor duplicated; see docs/clients.md.
package client
