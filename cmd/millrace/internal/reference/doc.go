// Package reference has the services of the reference server, millrace serve, for the
// handles 1/* to 3/* of the wire contract; those of 4/* and 5/* are in refservices. It is
// internal to the command, so that nobody who embeds the engine links it.
//
//	c, err := services.NewController(services.ControllerConfig{})
//	err = reference.Basics(c, false, reference.Here{}) // 1/1 to 1/9
//	err = reference.Timers(c, timers)    // 2/1 to 2/3
//	err = reference.Queries(c, db, ready) // 3/1
//	srv, err := engine.New(engine.Config{Addrs: addrs, Handles: c.Dispatch()}, c)
//
// They run in their session's order, on a worker or on its loop; those that block only on
// workers. What looks at no body or must cost nothing is registered with Controller.Raw.
// The session's own value (engine.Session.SetValue) is its timers.
package reference
