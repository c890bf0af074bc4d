// Package servicestest runs a program's services in the simulation of package enginetest: the
// manager, the controller, rooms, timers, delay events, locks and the cache are the real ones, on
// the simulated workers and clock; the database is simulated.
//
//	enginetest.Run(t, enginetest.Options{Seeds: 200}, func(w *enginetest.World) {
//		db := w.Database()
//		db.Lost = 20 // one statement in twenty has an unknown outcome
//		s := servicestest.New(w, services.Config{Server: &engine.Config{}, DB: servicestest.DB(db)})
//		w.Check(services.Register(s.Controller(), services.Handle(4, 3), newOrder(db)))
//		s.Start()
//		c := w.Dial(s.Server)
//		c.Send(4, 3, []byte(`{"item":7}`))
//		c.Next(4, 3)
//	})
//
// All checks of enginetest apply. In addition, at the end of a run it checks that the manager
// stops; that no answer is pending, and no room, timer, lock or wait for a lock is left; and that
// no timer fired early.
//
// The timer service has one shard, so timers due in the same tick fire in the order in which they
// were set. The order of a map's keys, and so that of Room.Members, is not determined by the seed.
package servicestest
