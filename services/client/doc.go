// Package client is a client of a Millrace server: typed calls, notifications,
// reconnects and heartbeats. It links neither the engine nor a database.
//
//	c, err := client.Dial(ctx, client.Config{Addrs: []string{"tcp://127.0.0.1:7000"}})
//	sum, err := client.Call[Sum, Total](ctx, c, client.Handle(4, 3), Sum{A: 1, B: 2})
//	c.On(client.Handle(4, 6), func(p codec.Packet) { log.Printf("%s", p.Body) })
//	defer c.Close()
//
// # Matching answers
//
// Answers on one handle come in the order of its requests, ERRORs included, so
// the n-th answer on a handle is that of the n-th call. Where the layout has a
// sequence number, answers are matched by that. A call whose context ends gives its
// place among MaxCalls back; its answer, when it comes, is thrown away.
//
// An answer never reaches another caller. Where whose it is can't be told, the connection
// ends and its calls with ErrLost: after an answer that no call waits for, and when one
// that was given up has not come for MaxLate. Without sequence numbers a handle is
// for calls, or for Send, or for what the server sends by itself (On), not for two of them.
//
// # Goroutines
//
// One reads, one writes, one connects and sends PINGs. Call and Send may be
// called from any goroutine; calls made at the same time travel in one write.
// Notifications run on the reading goroutine: they must not block, and must not Call.
// OnConnect runs on one of its own, and may Call with the context that it gets.
//
// # When the connection is lost
//
// Calls that were written end with ErrLost: they may have been executed. Others, and those
// made meanwhile, wait for the next connection until their context ends.
// It is tried after 50 ms, then twice as long up to 5 s, with jitter, at the
// addresses in turn. A GOAWAY has the client finish what is under way and
// connect anew, first to the address that it names, if any.
//
// # Sessions that outlive a connection
//
// With Config.Resume, and a server that has it, both ends count frames and keep what the other
// has not acknowledged. The next connection goes on with the session: what the other end has
// not had is sent again, in order. Calls under way, OnConnect's too, have their answers, nothing
// that was sent is run twice or not at all, and what the server sends by itself is neither lost
// nor doubled; at the server the session keeps its index, groups, timers and locks.
//
// A session ends with Close, which tells the server so, after a GOAWAY, when it was not resumed
// in time, and where the server has lost it or ends it. Calls that were written end with ErrLost
// and ErrSession then, and the next connection is a new session: OnConnect runs again. To a
// server without resume the client speaks as if it were off.
//
// What is kept is bounded by MaxUnacked: over it, calls and Sends wait, until their context ends.
// Main 0 is the client's own then: Do and Send refuse its handles.
package client
