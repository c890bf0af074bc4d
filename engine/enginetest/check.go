package enginetest

import (
	"bytes"
	"sync"

	"millrace/codec"
	"millrace/engine"
)

// checker stands between a server and its handler and holds the engine to what it promises.
type checker struct {
	s      *Server
	limits engine.Config

	mu       sync.Mutex
	expected map[string]*life      // guarded by mu; by the address that the client has
	records  map[engine.ID]*record // guarded by mu; of sessions that are open
	all      []*record             // guarded by mu
	slots    map[uint32]*record    // guarded by mu; the last session of each slot
	lives    []*life               // guarded by mu
	accepts  int                   // guarded by mu
	closes   int                   // guarded by mu
}

// record is what is known of a session.
type record struct {
	id      engine.ID
	life    *life // nil: not one of the world's clients
	running string
	read    int // of life.sent, those that the handler has had
	closed  bool
	why     engine.Reason
}

func (k *checker) init(s *Server) {
	k.s, k.expected, k.records, k.slots = s, map[string]*life{}, map[engine.ID]*record{}, map[uint32]*record{}
}

// expect notes whose connection the one from an address is.
func (k *checker) expect(addr string, l *life) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.expected[addr] = l
	if len(k.lives) == 0 || k.lives[len(k.lives)-1] != l {
		k.lives = append(k.lives, l)
	}
}

// checked is a handler whose callbacks are checked. The engine asks what else a handler can
// do, so there is one type for each answer.
type (
	checked struct {
		h engine.Handler
		k *checker
	}
	checkedFinPart    struct{ c *checked }
	checkedResumePart struct{ c *checked }
)

func (k *checker) wrap(h engine.Handler) engine.Handler {
	c := checked{h, k}
	_, fin := h.(engine.FinHandler)
	_, resume := h.(engine.ResumeHandler)
	switch {
	case fin && resume:
		return struct {
			checked
			checkedFinPart
			checkedResumePart
		}{c, checkedFinPart{&c}, checkedResumePart{&c}}
	case fin:
		return struct {
			checked
			checkedFinPart
		}{c, checkedFinPart{&c}}
	case resume:
		return struct {
			checked
			checkedResumePart
		}{c, checkedResumePart{&c}}
	}
	return c
}

// enter is the beginning of a callback. The caller defers the end.
func (k *checker) enter(s *engine.Session, callback string) (r *record, leave func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	w := k.s.w
	r = k.records[s.ID()]
	w.trace.note(callback, int(s.Index()), int(s.Round()), 0, nil)
	if callback == "OnSocketAccept" {
		if r != nil {
			w.Errorf("session %v: accepted twice", s.ID())
		}
		if was := k.slots[s.Index()]; was != nil {
			if !was.closed || was.running != "" {
				w.Errorf("session %v: its slot is given out while session %v has it", s.ID(), was.id)
			}
			if was.id.Round() >= s.Round() {
				w.Errorf("session %v: the slot has had round %d already", s.ID(), was.id.Round())
			}
		}
		r = &record{id: s.ID(), life: k.expected[s.RemoteAddr().String()]}
		k.records[s.ID()], k.slots[s.Index()] = r, r
		k.all = append(k.all, r)
		k.accepts++
	}
	if r == nil {
		w.Errorf("session %v: %s, though it is not open", s.ID(), callback)
		return &record{id: s.ID()}, func() {}
	}
	if r.running != "" {
		w.Errorf("session %v: %s begins while %s runs", s.ID(), callback, r.running)
	}
	r.running = callback
	return r, func() {
		k.mu.Lock()
		r.running = ""
		k.mu.Unlock()
	}
}

func (c checked) OnSocketAccept(s *engine.Session) {
	_, leave := c.k.enter(s, "OnSocketAccept")
	defer leave()
	c.h.OnSocketAccept(s)
}

func (c checked) OnSocketRead(s *engine.Session, p codec.Packet) {
	r, leave := c.k.enter(s, "OnSocketRead")
	defer leave()
	c.k.sawRead(r, p)
	c.h.OnSocketRead(s, p)
}

func (c checked) OnSocketClose(s *engine.Session, why engine.Reason) {
	r, leave := c.k.enter(s, "OnSocketClose")
	c.k.sawClose(r, why)
	defer leave()
	c.h.OnSocketClose(s, why)
}

// Knows is the handler's word; one that has none knows all.
func (c checked) Knows(handle uint32) bool {
	h, ok := c.h.(engine.HandleKnower)
	return !ok || h.Knows(handle)
}

func (c checkedFinPart) OnSocketFin(s *engine.Session) {
	_, leave := c.c.k.enter(s, "OnSocketFin")
	defer leave()
	c.c.h.(engine.FinHandler).OnSocketFin(s)
}

func (c checkedResumePart) OnSocketDetach(s *engine.Session) {
	_, leave := c.c.k.enter(s, "OnSocketDetach")
	defer leave()
	c.c.h.(engine.ResumeHandler).OnSocketDetach(s)
}

func (c checkedResumePart) OnSocketResume(s *engine.Session) {
	_, leave := c.c.k.enter(s, "OnSocketResume")
	defer leave()
	c.c.h.(engine.ResumeHandler).OnSocketResume(s)
}

// sawRead holds what the handler is given against what its client has sent: each frame once,
// in their order, none left out.
func (k *checker) sawRead(r *record, p codec.Packet) {
	k.mu.Lock()
	defer k.mu.Unlock()
	w := k.s.w
	w.trace.note("frame", int(p.Main), int(p.Sub), 0, p.Body)
	if r.life == nil {
		return
	}
	for ; r.read < len(r.life.sent); r.read++ {
		q := r.life.sent[r.read]
		if q.Main == p.Main && q.Sub == p.Sub && bytes.Equal(q.Body, p.Body) {
			r.read++
			return
		}
		if !k.s.mayRefuse() {
			w.Errorf("session %v: the handler is given %d/%d %.60q, but frame %d that its client has sent is %d/%d %.60q", r.id, p.Main, p.Sub, p.Body, r.read, q.Main, q.Sub, q.Body)
			return
		}
	}
	w.Errorf("session %v: the handler is given %d/%d %.60q, which its client has not sent, or not so often", r.id, p.Main, p.Sub, p.Body)
}

// mayRefuse tells whether the engine may answer requests itself.
func (s *Server) mayRefuse() bool {
	c := &s.cfg
	return s.Draining() || c.Heartbeat > 0 || c.WaitBudget > 0 || len(c.HandleWaits) > 0
}

func (k *checker) sawClose(r *record, why engine.Reason) {
	k.mu.Lock()
	defer k.mu.Unlock()
	w := k.s.w
	w.trace.note("close", int(r.id.Index()), int(r.id.Round()), int(why), nil)
	k.closes++
	r.closed, r.why = true, why
	delete(k.records, r.id)
	l := r.life
	if why == engine.ReasonPeerClosed && l != nil && !l.hurt && !l.broken && r.read < len(l.sent) && !k.s.mayRefuse() {
		w.Errorf("session %v: closed as its client has sent a FIN, but %d of the %d frames in front of that were not handled", r.id, len(l.sent)-r.read, len(l.sent))
	}
}

// disturbed tells whether a client was.
func (k *checker) disturbed() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, l := range k.lives {
		if l.hurt || l.client.hurt || l.broken {
			return true
		}
	}
	return false
}

// owed are the sessions whose handler has not had all that their clients have sent, and will.
func (k *checker) owed() (list []*record) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, r := range k.all {
		l := r.life
		if l == nil || r.closed || l.hurt || l.broken || l.client.hurt || l.client.life != l || r.read >= len(l.sent) {
			continue
		}
		if k.s.Session(r.id) != nil {
			list = append(list, r)
		}
	}
	return list
}

func (k *checker) quiet() bool { return k.s.stopped || len(k.owed()) == 0 }

// checkDelivered holds that what undisturbed clients have sent has been handled.
func (s *Server) checkDelivered() {
	if s.stopped || s.Draining() {
		return
	}
	for _, r := range s.check.owed() {
		s.w.Fatalf("session %v: %d of the %d frames that its client has sent were not handled in %v, and nothing keeps them", r.id, len(r.life.sent)-r.read, len(r.life.sent), s.w.opt.Patience)
	}
}

// checkLimits holds what limits what, at any time.
func (s *Server) checkLimits() {
	if s.stopped {
		return
	}
	if s.check.limits.MaxConns == 0 {
		s.check.limits = s.Config()
	}
	c := &s.check.limits
	st := s.Stats()
	switch most := 2 * (c.MaxPending + c.ReadBuffer + max(c.MaxFrame, 64<<10)); {
	case st.Conns > c.MaxConns:
		s.w.Errorf("%d sessions, MaxConns is %d", st.Conns, c.MaxConns)
	case st.Memory < 0:
		s.w.Errorf("the memory that is counted is %d bytes", st.Memory)
	default:
		s.Sessions(func(x *engine.Session) bool {
			if n := x.Stats().Pending; n > most {
				s.w.Errorf("session %v: requests that wait hold %d bytes, MaxPending is %d", x.ID(), n, c.MaxPending)
			}
			return true
		})
	}
}

// checkEnd holds that a server that has stopped has nothing left.
func (s *Server) checkEnd() {
	st, k := s.Stats(), &s.check
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.accepts != k.closes {
		for _, r := range k.all {
			if !r.closed && !s.stuck[r.id] {
				s.w.Fatalf("session %v was accepted and never closed; %s runs", r.id, r.running)
			}
		}
	}
	if len(s.stuck) > 0 {
		return // they had what they had
	}
	counted := uint64(0)
	for _, n := range st.Closes {
		counted += n
	}
	switch files := s.net.Open(); {
	case st.Conns != 0:
		s.w.Fatalf("the server has stopped and has %d sessions", st.Conns)
	case st.Memory != 0:
		s.w.Fatalf("the server has stopped, and %d bytes of its memory budget are not given back", st.Memory)
	case st.Waiting != 0 || st.Starving != 0:
		s.w.Fatalf("the server has stopped; sessions that wait for their peers: %d, for memory: %d", st.Waiting, st.Starving)
	case files != 0:
		s.w.Fatalf("the server has stopped and left %d connections open", files)
	case s.cfg.Pool == nil && st.Pool.Sessions+st.Pool.Queue != 0:
		s.w.Fatalf("the pool has stopped with %d strands and %d functions", st.Pool.Sessions, st.Pool.Queue)
	case s.cfg.Resume <= 0 && counted != st.Accepts:
		s.w.Fatalf("%d sessions were accepted and %d counted as closed", st.Accepts, counted)
	case st.Panics != 0 && !s.w.opt.Panics:
		s.w.Fatalf("%d callbacks panicked", st.Panics)
	}
}
