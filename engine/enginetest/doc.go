// Package enginetest runs servers in a simulated world, for tests: the engine, its timers
// and the handler are the real ones; the network, the workers, the clock and chance are the
// world's. One seed is one run: which connection is read from next and how much of what has
// come, how much the kernel takes, which worker goes on and when a client's reset arrives
// come from it, and the same seed gives the same run, so that a failure can be repeated.
// Ten thousand simulated seconds take about one.
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
// # What is held to
//
// In each run, between its steps, by itself: a session's callbacks are OnSocketAccept, then
// OnSocketRead for each frame that its client has sent, once and in their order, then
// OnSocketClose, never two at a time; a slot is given out again only when its last session
// has closed, in a later round; what limits sessions and waiting requests holds. At the end:
// what clients have sent that nothing was done to is handled, though it takes
// Options.Patience; every server stops; every session has had its OnSocketClose; nothing of
// the memory budget, no connection, no function that waits and no goroutine is left; no
// callback has panicked.
//
// # What runs where
//
// The function given to Run has the world in hand: nothing happens but while it is inside
// Advance, Until and what waits by them. Callbacks run one at a time, on goroutines of
// their own, and may block in what a synctest bubble knows, so time.Sleep, channels, a
// context's end: then others go on, as they would. They must not hold a mutex meanwhile
// that others need, and not wait for what is outside, such as sockets and files. Two
// callbacks that wake each other through a channel run at once for a moment: what they do
// in it is not the seed's to decide.
//
// A client speaks what its server's address wants, TLS and WebSocket included (see Way): with
// crypto/tls, whose keys follow the seed as all of crypto/rand does, and whose handshakes run
// on goroutines of their own, one at a time.
//
// What is not here: threads that interrupt one another in the middle of the engine's own
// code, which is what the race detector and ordinary tests look for; unix sockets and headers
// of the PROXY protocol; and an order among timers of different owners that are due in one
// tick of a timerwheel.Service, which it draws itself.
//
// What a handler leaves to chance it takes from World.Pick and its like, or from crypto/rand,
// which follows the seed too; math/rand's own functions and the order of a map's keys don't.
package enginetest
