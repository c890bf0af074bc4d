// Package reference has the services of the reference server, millrace serve, for the handles 1/*
// to 3/*; those of 4/* to 6/* are in refservices. It is internal to the command, so that programs
// that embed the engine do not link it.
//
//	c, err := services.NewController(services.ControllerConfig{})
//	err = reference.Basics(c, false, reference.Here{}) // 1/1 to 1/9
//	err = reference.Timers(c, timers)    // 2/1 to 2/3
//	err = reference.Queries(c, db, ready) // 3/1
//	srv, err := engine.New(engine.Config{Addrs: addrs, Handles: c.Dispatch()}, c)
//
// The services run in their session's order, on a worker or on its loop; blocking ones only on
// workers. Services that do not decode the body or must be cheap are registered with
// Controller.Raw. The session's value (engine.Session.SetValue) holds its timers.
package reference
