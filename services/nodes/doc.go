// Package nodes makes one of several processes: sessions, groups, users, calls and rooms that
// span them, over the locks and the bus of package cluster.
//
//	cache, err := cluster.New(cluster.Config{URL: url})
//	node, err := nodes.New(nodes.Config{Name: "a", Cache: cache})
//	m, err := services.New(services.Config{
//		Mode: services.ManyProcesses, Shared: nodes.Shared(node), Server: &engine.Config{Addrs: addrs},
//	})
//	err = m.Start(ctx)
//	members, err := node.Join(ctx, session, "tea")       // a group of all nodes
//	sent, err := node.SendGroup(ctx, session, "tea", 1, 8, body)
//	who := node.Presence(ctx, "tea")                     // asked of all nodes
//	epoch, err := node.Bind(ctx, session, packet, "ann") // her one session in the cluster
//	taken, err := node.SendUser(ctx, "ann", 6, 6, body)
//	sum, err := nodes.Call[Sum, Total](ctx, node, handle, Sum{A: 1, B: 2}, nodes.CallOptions{Node: "b"})
//
// Without a Cache a node is alone: all works as on the one node of a cluster.
//
// # What is promised
//
// A node is a process that holds the lock of its name. Its process, which no other ever was,
// is in the identity of its sessions (SessionID): what was meant for an earlier process, or
// for a slot's earlier session, reaches nobody.
//
// What one node sends to one session, by Send, SendUser, SendGroup or Broadcast, arrives in
// the order sent, at most once. Each stream from node to node is numbered: what is missing is
// counted, logged and given to Config.OnGap. It is seen with the next message of the stream,
// of a broadcast with the sender's next sign of life. Nothing is kept for a bus that is away.
//
// A user has one live binding: Bind is a compare-and-set whose epochs grow, so of two
// logins the later one stays, whoever hears of it when. SendUser asks the store, and the node
// that it names takes a message only by the epoch that it knows or a later one; so what is sent
// after a Bind has returned reaches the new session or nobody. The binding of a process that
// no longer lives counts for nothing. A session that has lost its user is told and closed; if
// it could not be told, then when its node reaches the store again.
//
// A call has one outcome: the answer, the callee's *services.Error, or an error of package
// cluster that says whether it may have run. Its deadline travels as what is left of it and
// as a time of the servers' clock, so that a node that stood still does not run what nobody
// waits for any more.
//
// A room (Homes) is run by one node at a time, which holds its lock, whose token its messages
// see. Before each message the node looks, by its own clock, whether its lease still runs: it
// ends a tenth of a lease before others may take the room. A message that is handled while the
// lease ends is answered by cluster.ErrLost; what it writes elsewhere carries the token.
//
// A client whose session can be resumed may come back to any node: that takes the session over,
// with its groups and users and what the handler's engine.Handoff keeps of it. The node that has
// it decides to whom it goes, once; what is sent to its groups, and to all, while it is on its
// way comes once and in each sender's order. If it can't be had the client gets a new one.
//
// While the servers are away sessions, groups and calls of this node go on; what needs others
// fails at once with cluster.ErrUnavailable or services.ErrCacheDown.
//
// # What runs where
//
// What comes from other nodes is handed to sessions by one goroutine, in its order, and is
// waited with while the engine's outboxes are full, up to Config.Patience. Questions are
// answered by another; calls run on goroutines of their own, Config.MaxCalls at most.
// Methods that take a context block, for Config.Timeout at most unless they say otherwise.
package nodes
