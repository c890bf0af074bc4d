// Package nodes makes a cluster of several processes: sessions, groups, users, calls and rooms that
// span them, built on the locks and the bus of package cluster.
//
//	cache, err := cluster.New(cluster.Config{URL: url})
//	node, err := nodes.New(nodes.Config{Name: "a", Cache: cache})
//	m, err := services.New(services.Config{
//		Mode: services.ManyProcesses, Shared: nodes.Shared(node), Server: &engine.Config{Addrs: addrs},
//	})
//	err = m.Start(ctx)
//	members, err := node.Join(ctx, session, "tea")       // a group of all nodes
//	sent, err := node.SendGroup(ctx, session, "tea", 1, 8, body)
//	who := node.Presence(ctx, "tea")                     // requested from all nodes
//	epoch, err := node.Bind(ctx, session, packet, "ann") // her one session in the cluster
//	taken, err := node.SendUser(ctx, "ann", 6, 6, body)
//	sum, err := nodes.Call[Sum, Total](ctx, node, handle, Sum{A: 1, B: 2}, nodes.CallOptions{Node: "b"})
//
// Without a Cache a node is alone, and everything works as in a cluster of one node.
//
// A node is a process that holds the lock of its name. Messages from one node to one session arrive
// in the order sent, at most once; missing ones are counted, logged and reported to Config.OnGap. A
// user has one binding: of two logins the later one wins. A call has one outcome: the answer, the
// callee's *services.Error, or an error of package cluster that says whether it may have run. A room
// ([Homes]) runs on one node at a time, which holds its lock. docs/cluster.md describes these promises
// in full.
//
// While the NATS servers are unavailable, sessions, groups and calls within this node continue; what
// needs other nodes fails at once with cluster.ErrUnavailable or services.ErrCacheDown.
//
// A client with a resumable session may reconnect to any node, which then takes the session over
// with its groups, its users and the state that the handler's engine.Handoff marshals. If the session
// is not available the client gets a new one. docs/cluster.md describes the move.
//
// Messages from other nodes are passed to sessions by one goroutine, in order; it waits up to
// Config.Patience while the engine's outboxes are full. Requests for presence and the like are
// answered by another goroutine. Calls run on goroutines of their own, at most Config.MaxCalls.
// Methods that take a context block, at most for Config.Timeout unless they say otherwise.
package nodes
