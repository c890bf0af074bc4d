// Package engine is an event-loop TCP server for stateful sessions: loops read and
// write, a worker pool runs the handler in each session's order, and whatever is
// asynchronous comes back into that order through [Session.Submit].
//
//	srv, err := engine.New(engine.Config{Addrs: []string{"tcp://127.0.0.1:7000"}}, handler)
//	if err != nil { … }
//	if err := srv.Start(ctx); err != nil { … }
//	defer srv.Stop(ctx)
//
// # Which goroutine runs what
//
// Every session has a strand: a queue of what is to happen to it, run by one worker at
// a time. Its OnSocketAccept, OnSocketRead, OnSocketClose and submitted functions all
// travel the strand, so a session's state needs no lock. Different sessions run at the
// same time. With inline and adaptive dispatch a strand that is idle may be run by the
// session's loop itself. A handler that blocks holds back its own session: spare workers
// take the place of blocked ones, and another goroutine does the work of a loop that is
// held up for some 20 ms. So callbacks may wait for each other in every mode; handles
// that are known to block are better off on the workers (Config.Handles,
// Server.SetDispatch).
//
// What sessions share gets an order of its own with a [Strand], which is no session:
// functions that run on the pool one at a time and in order, so that it needs no lock either.
//
// Send, Push, Broadcast, Group.Send, Close, Submit and the getters may be called from
// any goroutine and never block. Start and Stop block until they are done or their
// context ends; Stop from one of the server's own callbacks or hooks is ErrInCallback.
//
// # Bytes
//
// A packet's body is valid until OnSocketRead returns. Bodies given to Send and its
// kin are copied before it returns. A broadcast is held once for each loop and the frame
// of a group send once, however many sessions have still to be sent it.
//
// # Identity
//
// A session's index is used again by later connections; its round tells them apart.
// [ID] holds both, and an ID of a session that has gone finds nothing: a late answer
// can't reach the next client of a slot.
//
// # Flow
//
// Replies are staged per session and leave as one write for each batch. A session
// that leaves more than MaxOutbound unread is not read from, and its strand waits
// without holding a worker, until half of it has gone. What waits to be handled is
// bounded the same way by MaxPending. MemoryBudget bounds all of it together; limits
// count the memory that is held, not the bytes that came.
//
// A session that is pushed more than it reads is closed. Where only the newest value is of
// use, push it with a key ([Session.PushKeyed], [Group.SendKeyed]): it takes the place of the
// older one that is still unsent, so a slow session is sent the latest state.
//
// [Overload] says what happens when there is more to do than can be done: how long requests
// may wait, how fast connections, frames and bytes may come, how much time one session may
// take; and [Server.CostReader] who takes it.
//
// # What happened
//
// Config.Recorder notes each session's last events in a ring of a fixed size: frames in and
// out, turns and how long they were waited for, pauses, timers, the end. [Session.Flight]
// shows them at any time, [Server.Flights] those of sessions that ended badly or stalled.
// [Server.Stalls] are the callbacks that held a goroutine up, [Server.NearMisses] the limits
// that came near, and with whom; both are kept without a Recorder too. Config.Tap is shown
// the bytes themselves.
//
// # Layers
//
// The packages of engine/internal stand below this one and know nothing of it: bufpool and
// budget (memory), outbox, inbox and strand (one session's queues), replay (what a session that can be
// resumed has sent), dispatch (what is
// learned of handles), registry and perip, flight (a session's last events), sched (the pool), netio (the seam to the
// network) and gnetio (gnet and Linux behind it). Here is what ties them together: a
// session, its loop's turns, limits, draining.
package engine
