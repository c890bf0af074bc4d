package engine

import (
	"fmt"
	"net"
	"runtime/debug"
	"time"

	"millrace/codec"
	"millrace/engine/internal/bufpool"
	"millrace/engine/internal/dispatch"
	"millrace/engine/internal/netio"
	"millrace/engine/internal/sched"
	"millrace/engine/internal/strand"
)

// host is a server as seen by the network.
type host Server

var _ netio.Host = (*host)(nil)

// NewLoop registers a loop for broadcasts and ticks.
func (h *host) NewLoop(x netio.Loop) netio.Turner { return (*Server)(h).addLoop(x) }

func (srv *Server) addLoop(x netio.Loop) *loop {
	srv.loopMu.Lock()
	defer srv.loopMu.Unlock()
	old := srv.allLoops()
	l := newLoop(srv, len(old), x)
	loops := append(append([]*loop(nil), old...), l)
	srv.loops.Store(&loops)
	return l
}

// Open makes a session of a new connection. Loop goroutine.
func (h *host) Open(t netio.Turner, c netio.Conn, fd int) (netio.Sink, netio.Refusal) {
	l := t.(*loop)
	l.knowGoroutine()
	_, behind := c.(netio.Door)
	if why, ok := l.srv.mayAccept(c.RemoteAddr(), behind); !ok {
		return nil, l.srv.refuse(l.srv.framingOf(c), why, "")
	}
	s := &Session{srv: (*Server)(h), loop: l, conn: c}
	if f := s.srv.framingOf(c); f != s.srv.framing {
		s.framing.Store(f)
		s.flags.set(flagOther)
	}
	if d, ok := c.(netio.Door); ok {
		s.accepted = d.Since().UnixNano()
	}
	if no, ok := l.open(s, fd); !ok {
		return nil, no
	}
	return s.sink(), netio.Refusal{}
}

// knowGoroutine records the loop's goroutine, on which it is called.
func (l *loop) knowGoroutine() {
	if l.goroutine.Load() == 0 {
		l.goroutine.Store(sched.GoroutineID())
	}
}

// open registers s as a session, or returns how it is refused.
func (l *loop) open(s *Session, fd int) (no netio.Refusal, ok bool) {
	srv, remote := l.srv, s.RemoteAddr()
	why, ok := srv.admit(fd, remote)
	text := ""
	if ok {
		if text, ok = srv.mayCome(remote); !ok {
			srv.leave(remote)
			why = RefusedAdmit
		}
	}
	if ok {
		if l.accept(s) {
			srv.nearAccept(s, fd)
			return no, true
		}
		srv.leave(remote)
		why = RefusedConns
	}
	return srv.refuse(s.framing.Load(), why, text), false
}

// refuse counts a refused connection, and returns how to refuse it; an empty text means the
// standard text.
func (srv *Server) refuse(f *framing, why Refusal, text string) netio.Refusal {
	if f == nil {
		f = srv.framing
	}
	srv.refused[why].Add(1)
	no := netio.Refusal{AtOnce: why == RefusedFiles, Code: 1013}
	switch why {
	case RefusedDrain:
		no.Code = 1001
	case RefusedAdmit:
		no.Code = 1008
	}
	if f.system {
		code, standard := why.answer()
		if text == "" {
			text = standard
		}
		no.Goodbye, _ = f.brief.Append(nil, f.errorPacket(codec.Packet{}, code, text))
	}
	return no
}

// Writable is called by the network when the socket is writable again.
func (h *host) Writable(id uint64) {
	if s := (*Server)(h).table.lookup(ID(id)); s != nil {
		s.canWrite()
	}
}

func (h *host) AcceptFailed() { h.acceptErrors.Add(1) }

func (h *host) Failed(err error) { (*Server)(h).fail(fmt.Errorf("engine: %w", err)) }

// short reports whether a connection on descriptor fd must be refused before its handshakes:
// because files are short, or AcceptRate is exceeded.
func (h *host) short(fd int) bool {
	srv := (*Server)(h)
	why := RefusedFiles
	switch {
	case fd >= int(srv.fdShed.Load()):
		srv.guardFiles()
	case !srv.mayEnter():
		why = RefusedRate
	default:
		return false
	}
	srv.refused[why].Add(1)
	return true
}

// crowded counts a connection that was refused or replaced before it became a session.
func (h *host) crowded() { h.refused[RefusedConns].Add(1) }

// admit reports whether a connection on descriptor fd may be accepted. A new descriptor has the
// lowest free number: when it is high, files are short.
func (srv *Server) admit(fd int, remote net.Addr) (Refusal, bool) {
	switch a := srv.adjusted.Load(); {
	case srv.draining.Load():
		return RefusedDrain, false
	case fd >= int(srv.fdShed.Load()):
		srv.guardFiles()
		return RefusedFiles, false
	case a.MaxConns < srv.cfg.MaxConns && srv.conns.Load() >= int64(a.MaxConns): // otherwise slots are the limit
		return RefusedConns, false
	case !srv.perIP.Enter(remote, a.MaxConnsPerIP):
		return RefusedPerIP, false
	}
	return 0, true
}

// leave reverses the counts of admit.
func (srv *Server) leave(remote net.Addr) {
	if srv.cfg.MaxConnsPerIP > 0 {
		srv.perIP.Leave(remote)
	}
}

// mayCome calls Config.Admit; text is for the ERROR to a refused client.
func (srv *Server) mayCome(remote net.Addr) (text string, ok bool) {
	if srv.cfg.Admit == nil {
		return "", true
	}
	defer func() {
		if v := recover(); v != nil {
			srv.cfg.Logger.Error("engine: panic in Config.Admit", "panic", v, "stack", string(debug.Stack()))
			text, ok = "", false
		}
	}()
	if err := srv.cfg.Admit(remote); err != nil {
		return err.Error(), false
	}
	return "", true
}

// accept gives a new session a slot and adds it to the loop; false if there is no slot. As soon as
// it has a slot any goroutine may find it, so it is completely initialized before, and its
// OnSocketAccept is queued before functions that others submit.
func (l *loop) accept(s *Session) bool {
	srv := l.srv
	if s.framing.Load() == nil {
		s.framing.Store(srv.framing)
	}
	arrives := s.line() != nil && s.line().embryo
	inline := srv.cfg.Dispatch == Inline && !l.turn.away && !l.reserve && !arrives
	srv.addTap(s)
	s.task.Init(s.owner())
	s.rd.since = srv.now()
	if now := time.Now(); s.accepted == 0 {
		s.accepted = now.UnixNano()
	} else { // it had a handshake since then
		s.rd.since = max(s.rd.since-(now.UnixNano()-s.accepted), 1)
	}
	s.ends.Store(2)
	if m := s.loop.newMeter(); m != nil {
		s.more().meter = m
	}
	s.out.Open(&l.out) // its position in the log is the end
	switch {
	case arrives:
		s.in.Park() // until it is known what it begins with
	case inline:
		s.in.Open(nil)
		s.out.Cork()
	default:
		s.in.Open(bufpool.Empty(strand.Accept)) // from here on it is runnable
	}
	if !srv.table.acquire(s) {
		srv.dropTap(s)
		return false
	}
	s.tapOpened()
	srv.conns.Add(1)
	l.add(s)
	if s.flags.has(flagOther) {
		l.addOther(s)
	}
	l.st.accepts.Add(1)
	if arrives {
		return true
	}
	if !inline {
		s.schedule()
		return true
	}
	now := srv.now()
	l.beginTurn(s, now)
	s.meter().begin(now)
	s.acceptInline()
	l.turn.end()
	l.endInline(s)
	return true
}

// acceptInline runs OnSocketAccept on the loop.
func (s *Session) acceptInline() {
	ok := false
	defer func() {
		if !ok {
			s.loop.died(s) // by runtime.Goexit; a panic was recovered below
		}
	}()
	s.accept()
	ok = true
}

func newLoop(srv *Server, index int, io netio.Loop) *loop {
	l := &loop{srv: srv, index: index, io: io, mode: srv.handles.mode, reserve: io.Kind() == netio.LoopReserve}
	if l.mode == dispatch.Adaptive && io.Kind() != netio.LoopAccepts {
		// A quick handle might one day wait for a client that has not connected yet, and whose
		// connection waits for this loop. Only handles that the user has set to Inline run here.
		l.mode = dispatch.Ordered
	}
	l.out.MaxOutbound, l.out.MaxQueued, l.out.MaxFrame = srv.cfg.MaxOutbound, srv.maxOutbox(), srv.cfg.MaxFrame
	l.budget = srv.budget.Part()
	l.out.Budget, l.out.Share = l.budget, &srv.share
	l.out.Lent = bufpool.Get(srv.cfg.ReadBuffer)
	return l
}
