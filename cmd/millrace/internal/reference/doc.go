// Package reference holds the handlers of the reference server, millrace serve: what
// stands behind each handle of the wire contract. It is internal to the command, so
// that nobody who embeds the engine links it.
//
// A Router is the engine.Handler: it looks a packet's handle up and calls what is
// registered for it; what is not gets ERROR 2.
//
//	r := reference.NewRouter()
//	reference.Basics(r, false) // rows 1/1 to 1/9
//	r.Handle(9, 1, func(s *engine.Session, p codec.Packet) { s.Reply(p, nil) })
//	srv, err := engine.New(engine.Config{Addrs: addrs, Handles: r.Dispatch()}, r)
//
// Everything is registered before the server starts; from then on the Router is only
// read. Handlers run in their session's order, on a worker or on its loop; those that
// block are registered with Blocking.
package reference
