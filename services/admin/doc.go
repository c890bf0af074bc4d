// Package admin is the operator's door of a server: a small HTTP server that tells whether
// the process is well and what it does, and, where that is allowed, drains it, kicks
// sessions and changes settings.
//
//	door, err := admin.New(admin.Config{Addr: "127.0.0.1:7070", Server: m.TCP(), Controller: m.Controller(), Timers: m.Timers()})
//	if err != nil { … }
//	err = door.Start(ctx)
//	defer door.Stop(ctx)
//
// # What it serves
//
//	/                        the live page: see package page
//	/live                    what it shows, as JSON: see Live
//	/healthz                 200 while the loops tick; what the process depends on has no say
//	/readyz                  200, or 503 with the reasons
//	/metrics                 Prometheus's text or protocol buffers, names millrace_…
//	/stats                   counters of the server as a whole
//	/sessions                ?limit=, ?sort=, ?q= (part of an address or ID), ?closed=1
//	/sessions/INDEX.ROUND    one of them; POST …/kick ends it
//	/loops /handles /pool /timers /db /cache /cluster /limits
//	/costs                   ?seconds=1, ?limit=: which sessions, handles and tags took the time
//	/stalls /near            ?limit=: the last stalls, and limits that came within a tenth
//	/config                  the settings; POST changes some
//	/drain /undrain          POST
//	/trace                   what the runtime has traced lately, for go tool trace
//	/debug/pprof             with Config.Pprof
//
// Answers are JSON where nothing else is said; refusals have an "error". What changes
// something is POST and needs Config.Write.
//
// # Who may come in
//
// It listens on a loopback address or on a unix socket of mode 0600; on others only with
// Config.Token, which every request must then bring. A request whose Host or Origin is not
// the door's own is refused, so that no web page can reach it through a browser of this
// machine. Loopback is open to every user of the machine: without a token they can read,
// but only this process's user and root can change anything, see profiles or traces. At
// most Config.MaxClients connections are served at a time; further ones wait.
//
// # What it costs
//
// Between two requests: a look at the counters a second, for /live, and what is remembered of
// sessions that have ended. While somebody watches, that look takes in each session, and
// 50 bytes for each where the server keeps account of costs.
// A request reads counters that are there anyway; /sessions and /metrics look at each
// session once, /costs twice. Nothing here runs on a loop but for /sessions/INDEX.ROUND. All of it is
// safe for any goroutine; Start and Stop block.
package admin
