// Package enginetest runs servers in a simulation, for tests: the engine, its timers and the handler
// are real; the network, the workers, the clock and randomness are simulated by a [World]. A seed
// decides which connection is read next and how many bytes, how much the kernel accepts, which
// worker runs next and when a client's reset arrives. The same seed gives the same run, so a failure
// can be repeated. A thousand simulated seconds take about one second of CPU time.
//
//	func TestRoomSurvivesReset(t *testing.T) {
//		enginetest.Run(t, enginetest.Options{Seeds: 200}, func(w *enginetest.World) {
//			srv := w.Server(engine.Config{}, newGame())
//			a, b := w.Dial(srv), w.Dial(srv)
//			a.Send(1, 5, join)
//			b.Send(1, 5, join)
//			w.Until(b.Received(1, 5))
//			a.Reset()
//			b.Want(1, 8, leftMessage)
//		})
//	}
//
// In each run these invariants are checked between steps: a session's callbacks are OnSocketAccept,
// then OnSocketRead for each frame that its client has sent, once and in order, then OnSocketClose,
// never two at a time; a slot is reused only after its last session has closed, in a later round;
// the limits on sessions and waiting requests hold. At the end: frames of clients that were not
// disturbed are handled within Options.Patience; every server stops; every session had its
// OnSocketClose; no memory of the budget, connection, waiting function or goroutine is left; no
// callback has panicked.
//
// The function given to Run controls the simulation: time passes only inside Advance, Until and the
// methods that use them. Callbacks run one at a time, on goroutines of their own, and may block in
// whatever testing/synctest supports (time.Sleep, channels, a context's end); others then run.
// They must not hold a mutex meanwhile that others need, and must not wait for sockets or files.
// Two callbacks that wake each other through a channel run concurrently for a moment; the seed does
// not decide what they do in it. Random choices of a handler must come from World.Pick and the like or
// from crypto/rand, which follow the seed; math/rand's functions and the order of a map's keys don't.
//
// Clients use the protocol of the server's address, TLS and WebSocket included (see [Way]).
// Not simulated: preemption inside the engine's own code (the race detector and ordinary tests
// look for that), unix sockets, PROXY protocol headers, and the order of timers of different
// owners that are due in the same tick of a timerwheel.Service.
package enginetest
