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

// host is a server as the network sees it.
type host Server

var _ netio.Host = (*host)(nil)

// NewLoop makes a loop known to broadcasts and to the ticker.
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

// knowGoroutine notes which goroutine is the loop's. It is that.
func (l *loop) knowGoroutine() {
	if l.goroutine.Load() == 0 {
		l.goroutine.Store(sched.GoroutineID())
	}
}

// open makes s a session of the server's, or says how it is refused.
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

// refuse counts a connection that is turned away, and says how; an empty text is the
// standard one.
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

// Writable is told by the network that the kernel takes bytes again.
func (h *host) Writable(id uint64) {
	if s := (*Server)(h).table.lookup(ID(id)); s != nil {
		s.canWrite()
	}
}

func (h *host) AcceptFailed() { h.acceptErrors.Add(1) }

func (h *host) Failed(err error) { (*Server)(h).fail(fmt.Errorf("engine: %w", err)) }

// short tells whether a connection on descriptor fd is turned away before it has come
// through its door: as files are short, or AcceptRate is used up.
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

// crowded counts a connection that has given up its place in front of its session, or got none.
func (h *host) crowded() { h.refused[RefusedConns].Add(1) }

// admit says whether a connection on descriptor fd may come in. The number of a new
// descriptor is the lowest free one: when it is high, files are short.
func (srv *Server) admit(fd int, remote net.Addr) (Refusal, bool) {
	switch a := srv.adjusted.Load(); {
	case srv.draining.Load():
		return RefusedDrain, false
	case fd >= int(srv.fdShed.Load()):
		srv.guardFiles()
		return RefusedFiles, false
	case a.MaxConns < srv.cfg.MaxConns && srv.conns.Load() >= int64(a.MaxConns): // else there is no slot
		return RefusedConns, false
	case !srv.perIP.Enter(remote, a.MaxConnsPerIP):
		return RefusedPerIP, false
	}
	return 0, true
}

// leave takes back what admit has counted.
func (srv *Server) leave(remote net.Addr) {
	if srv.cfg.MaxConnsPerIP > 0 {
		srv.perIP.Leave(remote)
	}
}

// mayCome asks Config.Admit; text is what a refused client is told.
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

// accept gives a new session a slot and takes it onto the loop; false when there is no
// slot. From the moment it has one anybody may find it, so everything it is made of
// stands before that, and its OnSocketAccept is in front of whatever others submit.
func (l *loop) accept(s *Session) bool {
	srv := l.srv
	if s.framing.Load() == nil {
		s.framing.Store(srv.framing)
	}
	inline := srv.cfg.Dispatch == Inline && !l.turn.away && !l.reserve
	srv.addTap(s)
	s.task.Init(s.owner())
	s.rd.since = srv.now()
	if now := time.Now(); s.accepted == 0 {
		s.accepted = now.UnixNano()
	} else { // it has come through a door since then
		s.rd.since = max(s.rd.since-(now.UnixNano()-s.accepted), 1)
	}
	s.ends.Store(2)
	s.meter = s.loop.newMeter()
	s.out.Open(&l.out) // its share of the log begins at the end
	if inline {
		s.in.Open(nil)
		s.out.Cork()
	} else {
		s.in.Open(bufpool.Empty(strand.Accept)) // now it is queued
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
	if !inline {
		s.schedule()
		return true
	}
	now := srv.now()
	l.beginTurn(s, now)
	s.meter.begin(now)
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
			s.loop.died(s) // runtime.Goexit; a panic was recovered below
		}
	}()
	s.accept()
	ok = true
}

func newLoop(srv *Server, index int, io netio.Loop) *loop {
	l := &loop{srv: srv, index: index, io: io, mode: srv.handles.mode, reserve: io.Kind() == netio.LoopReserve}
	if l.mode == dispatch.Adaptive && io.Kind() != netio.LoopAccepts {
		// A handle that was quick might one day wait for somebody who has still to connect, and
		// whose connection waits for this loop. Only what the user has fixed runs here.
		l.mode = dispatch.Ordered
	}
	l.out.MaxOutbound, l.out.MaxQueued, l.out.MaxFrame = srv.cfg.MaxOutbound, srv.maxOutbox(), srv.cfg.MaxFrame
	l.budget = srv.budget.Part()
	l.out.Budget, l.out.Share = l.budget, &srv.share
	l.out.Lent = bufpool.Get(srv.cfg.ReadBuffer)
	return l
}
