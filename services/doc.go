// Package services is what a program is built from on top of the engine: a
// manager that makes, starts and stops the pool, the timers, the database, the
// cache and the server; a controller that gives each packet to the service
// registered for its handle; calls between services; delay events; and the
// memory that services share.
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
// # What runs where, and what blocks
//
// Stages run where the engine runs OnSocketRead: one session's in order, never
// two at once, on a worker or on the session's loop. A service whose stages
// block says so (Blocking). Answers that come later (Context.Defer) go on in
// the session's order; so do delay events and timers of a session. What belongs
// to no session runs on the pool. New starts nothing; Start and Stop block.
// Cache operations never block in process; package services/cluster tells which
// of its own do. A wait for a lock holds no goroutine.
//
// # What sessions share
//
// State that sessions share, a room, an order book, a device, stands in Rooms: by key, of the
// user's type, touched only by functions that run in that room one at a time, so it needs no
// lock. A room is made at the first message to its key and closes when it has been idle for
// a while. It has members, which leave when their sessions end, and a group of them to send
// to; timers of its own; and it is a Submitter, so queries, locks, delay events and answers
// that come later come back to it, and never to the next room of its key.
//
//	type room = services.Room[string, *game]
//	games, err := services.NewRooms(services.RoomsConfig[string, *game]{New: newGame})
//	m, err := services.New(services.Config{Services: []services.Spec{{Name: "games", Service: games}}, ...})
//	err = games.Post(name, func(r *room) {
//		r.Join(session)
//		r.SetTimer(1, time.Second/20, 0, func(timerwheel.Firing) { r.State.tick(); r.Send(7, 1, r.State.bytes()) })
//	})
//
// Post never blocks: a room that is full refuses with engine.ErrBusy. A message that was taken
// runs once; only when its room fails before, by a panic or an error of New, does it not, and
// PostOr tells so. A room whose function blocks holds back itself only. Rooms may post to one
// another, but none may wait for another: post, and have it post back.
//
// # From the seeds to here
//
// Two older designs, one in C++ and one in Python, are called the seeds in this package's
// comments. The words of the first one's kernel:
//
//	IService                        Service
//	  Start, Stop, IsService          Start(ctx) error, Stop(ctx) error, Running() bool
//	IServiceMgr                     Manager; New makes it, nobody makes its services
//	  Instance                        Default, SetDefault
//	  GetAsyncService                 Manager.Async
//	  GetDBService                    events.DB(manager)
//	  GetTCPService                   Manager.TCP
//	  GetTimerService                 Manager.Timers
//	  composed of the four            Manager.Service, and Config.Services for the program's own
//	IAsyncService                   engine.Pool
//	  GetIOService                    Pool.Submit; Session.Submit for work in a session's order
//	  io_services = CPUs              engine.Config.Loops
//	  threads = 2 x CPUs              engine.Config.Workers, engine.PoolConfig.Workers
//	ITimerService                   timerwheel.Service
//	  SetTimer(id, ms, fn, times)     SetTimer(id, every, repeat, fn); an id in use is set anew
//	  KillTimer, KillAllTimer         KillTimer, KillAllTimers
//	  fn on any worker thread         on the pool; on one session's strand with Context.Timers;
//	                                  in a room with Room.SetTimer
//	ITCPServerService               engine.Server
//	  SendData(MainCmd, SubCmd, ...)  Server.Send(id, main, sub, body); a nil body is "no data"
//	  SendDataBatch                   Server.Broadcast
//	  CloseSocket                     Server.CloseSocket
//	  SetObserver                     the Handler of engine.New; Server.SetHandler
//	SocketItem                      engine.Session
//	  GetIndex, GetRound              Index, Round; both in ID
//	  IsConnected, SendData           Connected, Send
//	  GetClientAddress                RemoteAddr
//	  GetConnectTimer, Close          ConnectedAt, Close
//	  a late result of client1 never  an ID of an older round finds nothing; a Reply, a timer and
//	  reaches client2                 a delay event end with their session
//	ITCPServiceObserver             engine.Handler
//	  OnSocketAccept, -Read, -Close   the same names; one session's never at the same time
//	IDatabaseService                dbasync.DB
//	  Connect                         Start; it connects, and connects again, by itself
//	  Query, stored procedures        Query(ctx, on, done, Stmt, args...); select procedure($1, $2)
//	  SetObserver                     SetObserver
//	DBConnect GetIndex, IsConnect   dbasync.Conn Index, Connected
//	IDBServiceObserver              dbasync.Observer
//	  OnDBConnect, OnQueryEnd         the same names
//	QueryResult                     dbasync.QueryResult: Outcome, Err, Rows
//
// Those of the second one's service controller:
//
//	CommonTools.mem_cache           Context.Cache, Manager.Cache
//	WorkerPool(mode)                Config.Mode: OneProcess, ManyProcesses
//	MemCacheSingletonProcess        Memory
//	MemCacheMultiProcess            package services/cluster
//	  lock_key, unlock_key            Cache.Lock, Cache.Unlock
//	  set, get                        Cache.Set, Cache.Get
//	  compare_and_set                 Cache.CompareAndSet
//	[length][handle][body]          codec.Packet; Handle(main, sub)
//	a handle has one service        Register; a second one on a handle is an error
//	run: five functions             decode, Pre, Handle, Last, encode
//	  pre_handler, last_handler       Stages.Pre, Stages.Last: may be nil
//	  an exception is logged          an error becomes an ERROR frame (ErrorOf); internal ones are logged
//	req, res                        *Req, *Res of Stages, and Context
//	  serialisation by request        ControllerConfig.SerializerFor, With, SetSerializer
//	  req.content, res.content        what Req and Res say; map[string]any is a dictionary
//	handler_dict[id]                Controller; Inline and After look the handle up
//	inline_call(controller, dict)   Inline: Pre, Handle, Last, no bytes
//	start_delay_event(DelayEvent(   After(ctx, seconds, handle, req)
//	  handle, dict, seconds))
package services
