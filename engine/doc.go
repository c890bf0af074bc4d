// Package engine is an event-loop TCP server for stateful sessions: loops read and write, a worker
// pool runs the handler in each session's order, and asynchronous results are delivered in that
// order through [Session.Submit].
//
//	srv, err := engine.New(engine.Config{Addrs: []string{"tcp://127.0.0.1:7000"}}, handler)
//	if err != nil { … }
//	if err := srv.Start(ctx); err != nil { … }
//	defer srv.Stop(ctx)
//
// # Goroutines
//
// Every session has a strand: a queue of its events, run by one worker at a time. Its
// OnSocketAccept, OnSocketRead, OnSocketClose and submitted functions all run on the strand, so a
// session's state needs no lock. Different sessions run concurrently. With inline and adaptive
// dispatch an idle strand may be run by the session's loop itself. A handler that blocks delays its
// own session: spare workers replace blocked ones, and another goroutine takes over the work of a
// loop that is blocked for some 20 ms. So callbacks may wait for each other in every mode; handles
// known to block should run on the workers (Config.Handles, Server.SetDispatch).
//
// State that sessions share can be ordered by a [Strand], which belongs to no session: its
// functions run on the pool one at a time and in order, so they need no lock either.
//
// Send, Push, Broadcast, Group.Send, Close, Submit and the getters may be called from any goroutine
// and never block. Start and Stop block until they are done or their context ends; Stop in one of
// the server's own callbacks or hooks returns ErrInCallback.
//
// # Bytes
//
// A packet's body is valid until OnSocketRead returns. Bodies given to Send and similar methods are
// copied before these return. A broadcast is stored once for each loop and the frame of a group
// send once, however many sessions it is sent to.
//
// # Identity
//
// Later connections reuse a session's index; its round distinguishes them. [ID] contains both, and
// the ID of a closed session finds nothing: a late answer can't reach the next client of a slot.
//
// # Flow control
//
// Answers are staged for each session and leave in one write for each batch. A session that leaves
// more than MaxOutbound unread is not read, and its strand waits without occupying a worker, until
// half of it has been sent. Waiting requests are limited in the same way by MaxPending.
// MemoryBudget limits all of it together; limits count the memory held, not the bytes received.
//
// A session that reads more slowly than it is pushed to is closed. If only the newest value
// matters, push it with a key ([Session.PushKeyed], [Group.SendKeyed]): it replaces an older unsent
// one, so a slow session gets the latest state.
//
// [Overload] configures what happens under overload: how long requests may wait, how fast
// connections, frames and bytes may arrive, and how much time one session may use;
// [Server.CostReader] reports which sessions use it.
//
// # Diagnostics
//
// Config.Recorder records each session's last events in a ring of fixed size: frames received and
// sent, turns and how long they waited, pauses, timers, the end. [Session.Flight] returns them at
// any time, [Server.Flights] those of sessions that ended with an error or stalled. [Server.Stalls]
// are callbacks that blocked a goroutine, [Server.NearMisses] limits that were nearly reached, with
// the session concerned; both work without a Recorder too. Config.Tap receives the bytes
// themselves.
//
// # Layers
//
// The packages below engine/internal do not import this one: bufpool and budget (memory), outbox,
// inbox and strand (the queues of a session), replay (unacknowledged output of a session that can
// be resumed), dispatch (measurements of handles), registry and perip, flight (events of a
// session), sched (the pool), netio (the interface to the network) and gnetio (its implementation
// with gnet on Linux). This package combines them into sessions, the loops' flush passes, limits
// and draining.
package engine
