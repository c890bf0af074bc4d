// Package engine is an event-loop TCP server for stateful sessions: loops read and write, a worker
// pool runs the handler in each session's order, and asynchronous results are delivered in that
// order through [Session.Submit].
//
//	srv, err := engine.New(engine.Config{Addrs: []string{"tcp://127.0.0.1:7000"}}, handler)
//	if err != nil { … }
//	if err := srv.Start(ctx); err != nil { … }
//	defer srv.Stop(ctx)
//
// Every session has a strand: a queue of its events, run by one worker at a time. Its
// OnSocketAccept, OnSocketRead, OnSocketClose and submitted functions all run on the strand, so a
// session's state needs no lock. Different sessions run concurrently. With inline and adaptive
// dispatch an idle strand may be run by the session's loop itself. A handler that blocks delays its
// own session only: spare workers replace blocked ones, and another goroutine takes over the work of
// a loop that is blocked for some 20 ms. Handles known to block should run on the workers
// (Config.Handles). State that sessions share can be ordered by a [Strand] of its own.
//
// Send, Push, Broadcast, Group.Send, Close, Submit and the getters may be called from any goroutine
// and never block. Start and Stop block until they are done or their context ends; Stop in one of
// the server's own callbacks or hooks returns ErrInCallback.
//
// A packet's body is valid until OnSocketRead returns. Bodies given to Send and similar methods are
// copied before these return.
//
// Later connections reuse a session's index; its round distinguishes them. [ID] contains both, and
// the ID of a closed session finds nothing, so a late answer can't reach the next client of a slot.
//
// A session that leaves more than MaxOutbound bytes unread is not read, and its strand waits
// without occupying a worker, until half of it has been sent; waiting requests are limited in the
// same way by MaxPending, and all memory together by MemoryBudget. A session that reads more slowly
// than it is pushed to is closed; [Session.PushKeyed] replaces an older unsent value instead.
// [Overload] limits waiting time, rates and the time that one session may use.
//
// The project's docs directory describes threading, limits, layouts, transports and the internal
// packages (docs/threading.md, limits.md, layouts.md, doors.md, architecture.md).
package engine
