// Package services has the building blocks of a program on top of the engine: a manager that
// creates, starts and stops the pool, the timers, the database, the cache and the server; a
// controller that passes each packet to the service registered for its handle; calls between
// services; delay events; and a cache and rooms that services share.
//
//	m, err := services.New(services.Config{Server: &engine.Config{Addrs: []string{"tcp://127.0.0.1:7000"}}})
//	err = services.Register(m.Controller(), services.Handle(4, 3), services.Stages[Sum, Total]{
//		Handle: func(ctx *services.Context, req *Sum, res *Total) error {
//			res.Sum = req.A + req.B
//			return nil
//		},
//	})
//	err = m.Start(ctx)
//	defer m.Stop(ctx)
//
// # Goroutines and blocking
//
// Stages run where the engine runs OnSocketRead: those of one session in order, never
// concurrently, on a worker or on the session's loop. A service whose stages block must be
// registered with Blocking. Deferred answers (Context.Defer) continue in the session's order; so
// do delay events and timers of a session. What belongs to no session runs on the pool. New
// starts nothing; Start and Stop block. Cache operations never block in process; package
// services/cluster documents which of its own do. Waiting for a lock blocks no goroutine.
//
// # Shared state
//
// State that sessions share, such as a game room, an order book or a device, belongs in Rooms:
// each key has a room with a state of the user's type, used only by functions that run in that
// room one at a time, so it needs no lock. A room is created by the first message to its key and
// closes when it has been idle for a while. It has members, which leave when their sessions end,
// timers, and is a Submitter for results of queries, locks and delay events. See Rooms.
//
// docs/services.md has a longer introduction, and docs/names.md the corresponding terms of other
// frameworks.
package services
