// Package admin is the admin server: a small HTTP server that shows whether the process is healthy
// and what it does and, if allowed, drains it, kicks sessions and changes settings.
//
//	door, err := admin.New(admin.Config{Addr: "127.0.0.1:7070", Server: m.TCP(), Controller: m.Controller(), Timers: m.Timers()})
//	if err != nil { … }
//	err = door.Start(ctx)
//	defer door.Stop(ctx)
//
// It serves:
//
//	/                        the live page: see package page
//	/live                    the data of the live page, as JSON: see Live
//	/healthz                 200 while the loops tick, whatever the state of the database or cluster
//	/readyz                  200, or 503 with the reasons
//	/metrics                 Prometheus's text or protocol buffers, names millrace_…
//	/stats                   counters of the server as a whole
//	/sessions                ?limit=, ?sort=, ?q= (part of an address or ID), ?closed=1
//	/sessions/INDEX.ROUND    one session; POST …/kick closes it
//	/loops /handles /pool /timers /db /cache /cluster /limits
//	/costs                   ?seconds=1, ?limit=: which sessions, handles and tags use CPU time
//	/stalls /near            ?limit=: the last stalls, and limits that were nearly reached
//	/config                  the settings; POST changes some
//	/drain /undrain          POST
//	/trace                   the most recent execution trace, for go tool trace
//	/debug/pprof             with Config.Pprof
//
// Answers are JSON unless stated otherwise; refusals have an "error" field. Changes use POST and
// need Config.Write.
//
// It listens on a loopback address or on a unix socket of mode 0600; on other addresses only with
// Config.Token, which every request must then contain. A request with a foreign Host or Origin is
// refused. Without a token every user of the machine can read, but only this process's user and root
// can change anything, or get profiles or traces. At most Config.MaxClients connections are served
// at a time; others wait. Requests read existing counters, and nothing but /sessions/INDEX.ROUND runs
// on a loop. All methods are safe for any goroutine; Start and Stop block.
package admin
