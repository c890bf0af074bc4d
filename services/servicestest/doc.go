// Package servicestest runs a program's services in the simulated world of package
// enginetest: the manager, the controller, rooms, timers, delay events, locks and the cache
// are the real ones, on the world's workers and its clock; the database is the world's.
//
//	enginetest.Run(t, enginetest.Options{Seeds: 200}, func(w *enginetest.World) {
//		db := w.Database()
//		db.Lost = 20 // of one statement in twenty nobody knows whether it has run
//		s := servicestest.New(w, services.Config{Server: &engine.Config{}, DB: servicestest.DB(db)})
//		w.Check(services.Register(s.Controller(), services.Handle(4, 3), newOrder(db)))
//		s.Start()
//		c := w.Dial(s.Server)
//		c.Send(4, 3, []byte(`{"item":7}`))
//		c.Next(4, 3)
//	})
//
// What enginetest holds a run to is held to here too. At its end, by itself: the manager
// stops; no answer is owed, no room, timer, lock or wait for one is left; and no timer has
// come early.
//
// The timers' shards are one, so that what is due in one tick comes in the order in which it
// was set. The order of a map's keys, and so that of Room.Members, is not the seed's.
package servicestest
