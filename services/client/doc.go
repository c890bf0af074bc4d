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
// Answers on one handle arrive in the order of its requests, including ERRORs, so the n-th answer
// on a handle belongs to the n-th call. If the layout has a sequence number, answers are matched by
// it. A call whose context ends releases its place among MaxCalls; its answer is discarded when it
// arrives.
//
// An answer never reaches another caller. If it can't be determined which call an answer belongs
// to, the connection is closed and its calls end with ErrLost: after an answer that no call waits
// for, and when the answer of an abandoned call has not arrived within MaxLate. Without sequence
// numbers a handle can be used either for calls, or for Send, or for packets that the server pushes
// (On), but not for two of these.
//
// # Goroutines
//
// One goroutine reads, one writes, one connects and sends PINGs. Call and Send may be called from
// any goroutine; concurrent calls are sent in one write. Functions of On run on the reading
// goroutine: they must not block, and must not Call. OnConnect runs on a goroutine of its own, and
// may Call with the context that it gets.
//
// # Lost connections
//
// Calls already written end with ErrLost: they may have been executed. Others, and calls made
// meanwhile, wait for the next connection until their context ends. The client reconnects after 50
// ms, then after twice as long up to 5 s, with jitter, using the addresses in turn. After a GOAWAY
// the client finishes what is in progress and reconnects, first to the address in the GOAWAY, if
// any.
//
// # Resuming sessions
//
// With Config.Resume, and a server that supports it, both ends count frames and keep those that the
// other has not acknowledged. The next connection resumes the session: what the other end has not
// received is resent, in order. Calls in progress, including those of OnConnect, get their answers,
// every packet sent is processed exactly once, and pushes are neither lost nor duplicated; at the
// server the session keeps its index, groups, timers and locks.
//
// After a GOAWAY the next connection, to where that says, comes with the session too: nodes of a
// cluster take it over from each other. New calls wait until it has.
//
// A session ends with Close, which tells the server so, when it was not resumed in time, with
// NoReconnect after a GOAWAY, and where the server has lost it or ends it. Calls that were written end with ErrLost
// ErrSession, and the next connection starts a new session: OnConnect runs again. With a server
// without resume the client behaves as if it were off.
//
// What is kept is limited by MaxUnacked: above it, calls and Sends wait, until their context ends.
// Main 0 is then reserved for the client: Do and Send reject its handles.
package client
