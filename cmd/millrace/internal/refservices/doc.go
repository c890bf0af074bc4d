// Package refservices has the services of the reference server that are built on package services:
// users and their tokens (4/1, 4/2, 4/7, 4/8), sums and inline calls (4/3, 4/4), delay events (4/5,
// 4/6), the shared cache with its locks (5/1 to 5/5), and the nodes of a cluster (6/1 to 6/7).
//
//	x, err := refservices.New(refservices.Config{DB: db, Ready: ready, Timers: timers, Pool: pool})
//	engine.New(engine.Config{Handles: x.Dispatch()}, x.Controller)
//
// New starts nothing. The caller must stop x.Cache if New created it. Handlers run where the engine
// runs them; passwords are hashed on separate goroutines, as many as there are CPUs.
package refservices
