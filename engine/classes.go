package engine

import (
	"sync"
	"sync/atomic"
	"time"

	"millrace/codec"
)

// What adaptive dispatch calls quick, and when it stops doing so.
const (
	quickTime  = 100 * time.Microsecond // a run of this length or less may be inline
	stallTime  = time.Millisecond       // an inline run longer than this holds its loop up
	quickRuns  = 8                      // quick runs in a row before a handle goes inline
	maxStrikes = 3                      // stalls before it goes back to the workers
	strikeFade = time.Minute            // without a stall the strikes are forgotten
	maxBackoff = 10                     // each time it needs twice as many quick runs
)

// classes remembers how each handle is dispatched: an open-addressed table of packed
// entries, read without a lock. Learned entries give way to others; fixed ones stay.
type classes struct {
	slots []atomic.Uint64
	shift uint
	some  bool // a handle is fixed on the loop
}

// An entry: handle in the upper half, then kind, backoff, strikes and a run count; of a
// quick one instead of that the second of the last strike, modulo 1<<16.
type entry uint64

const (
	kindNone    = iota
	kindLearn   // counts quick runs
	kindQuick   // goes inline
	kindOrdered // fixed on the workers
	kindInline  // fixed on the loop
)

func makeEntry(handle uint32, kind, backoff, strikes uint8, runs uint16) entry {
	return entry(handle)<<32 | entry(kind)<<28 | entry(backoff&15)<<24 | entry(strikes)<<16 | entry(runs)
}

func (e entry) handle() uint32 { return uint32(e >> 32) }
func (e entry) kind() uint8    { return uint8(e>>28) & 15 }
func (e entry) backoff() uint8 { return uint8(e>>24) & 15 }
func (e entry) strikes() uint8 { return uint8(e >> 16) }
func (e entry) runs() uint16   { return uint16(e) }

const probes = 8 // how many neighbouring slots an entry may stand in

func newClasses(bits uint) *classes {
	return &classes{slots: make([]atomic.Uint64, 1<<bits+probes), shift: 32 - bits}
}

func (c *classes) home(handle uint32) int { return int(handle * 0x9E3779B1 >> c.shift) }

// get finds a handle's entry and its slot; 0 and -1 when there is none.
func (c *classes) get(handle uint32) (entry, int) {
	h := c.home(handle)
	for i := h; i < h+probes; i++ {
		e := entry(c.slots[i].Load())
		if e == 0 {
			break
		}
		if e.handle() == handle {
			return e, i
		}
	}
	return 0, -1
}

// inline tells whether a handle's packets run on the loop.
func (c *classes) inline(handle uint32, mode Dispatch) bool {
	e, _ := c.get(handle)
	switch e.kind() {
	case kindOrdered:
		return false
	case kindInline:
		return true
	}
	return mode == Inline || e.kind() == kindQuick
}

// place stores an entry. Without room another is thrown out and has to be learned
// again: one that is being learned, else one that was; so handles that nobody serves
// can't keep the table from those that are.
func (c *classes) place(e entry) bool {
	h := c.home(e.handle())
	for i := h; i < h+probes; i++ {
		old := entry(c.slots[i].Load())
		if old == 0 || old.handle() == e.handle() {
			return c.slots[i].CompareAndSwap(uint64(old), uint64(e))
		}
	}
	for _, weak := range []uint8{kindLearn, kindQuick} {
		for i := range probes {
			at := h + (i+int(e.handle()))%probes // not always the same one's turn
			if old := entry(c.slots[at].Load()); old.kind() == weak {
				return c.slots[at].CompareAndSwap(uint64(old), uint64(e))
			}
		}
	}
	return false
}

// mayInline tells whether any packet may run on a loop.
func (srv *Server) mayInline() bool {
	return srv.cfg.Dispatch != Ordered || srv.classes.Load().some
}

// fixed are the handles whose dispatch the user has set.
type fixed struct {
	mu sync.Mutex
	m  map[uint32]Dispatch
}

// SetDispatch fixes where a handle's packets run: Ordered for a handle that blocks,
// Inline for one known to be quick; Adaptive takes that back. It holds from the next
// packet on, whatever the server's own dispatch.
func (srv *Server) SetDispatch(handle uint32, d Dispatch) {
	srv.fixed.mu.Lock()
	defer srv.fixed.mu.Unlock()
	srv.fix(handle, d)
	srv.makeClasses()
}

func (srv *Server) fix(handle uint32, d Dispatch) {
	if d == Adaptive {
		delete(srv.fixed.m, handle)
	} else {
		srv.fixed.m[handle] = d
	}
}

// makeClasses makes the smallest table that holds what is fixed. fixed.mu is held, or
// the server is new.
func (srv *Server) makeClasses() {
	bits := uint(8)
	for !srv.rebuildClasses(bits) {
		bits++
	}
}

func (srv *Server) rebuildClasses(bits uint) bool {
	c := newClasses(bits)
	for h, d := range srv.fixed.m {
		kind := uint8(kindOrdered)
		if d == Inline {
			kind, c.some = kindInline, true
		}
		if !c.place(makeEntry(h, kind, 0, 0, 0)) {
			return false
		}
	}
	srv.classes.Store(c)
	return true
}

// learner measures handles for adaptive dispatch.
type learner struct{ srv *Server }

// measure runs a packet on a worker, timing handles that are still being learned.
func (n *learner) measure(s *Session, h Handler, p codec.Packet) {
	c := n.srv.classes.Load()
	e, _ := c.get(p.Handle())
	if k := e.kind(); k != kindNone && k != kindLearn {
		h.OnSocketRead(s, p)
		return
	}
	handle := p.Handle()
	began := n.srv.now()
	h.OnSocketRead(s, p)
	took := time.Duration(n.srv.now() - began)
	runs := e.runs() + 1
	if took > quickTime {
		runs = 0
	}
	kind := uint8(kindLearn)
	if runs >= quickRuns<<e.backoff() {
		kind, runs = kindQuick, 0
	}
	c.place(makeEntry(handle, kind, e.backoff(), 0, runs))
}

// judge looks at an inline turn that has taken so long: handles that hold a loop up go
// back to the workers. With several handles in one turn each of them gets the strike.
func (n *learner) judge(b []byte, took time.Duration) {
	if took < stallTime {
		return
	}
	c := n.srv.classes.Load()
	frames := countFrames(n.srv.codec, b)
	if took < stallTime*time.Duration(min(frames, 4)) {
		return
	}
	seen := uint32(0)
	for len(b) > 0 {
		size, _, _ := n.srv.codec.Frame(b)
		p := n.srv.codec.Packet(b[:size:size])
		b = b[size:]
		if p.Handle() != seen {
			seen = p.Handle()
			n.strike(c, seen, took)
		}
	}
}

func (n *learner) strike(c *classes, handle uint32, took time.Duration) {
	e, at := c.get(handle)
	if at < 0 || e.kind() != kindQuick {
		return
	}
	second := uint16(n.srv.now() / int64(time.Second))
	strikes := uint8(1)
	if second-e.runs() < uint16(strikeFade/time.Second) {
		strikes += e.strikes()
	}
	if took > 10*stallTime {
		strikes++
	}
	if strikes < maxStrikes {
		c.slots[at].CompareAndSwap(uint64(e), uint64(makeEntry(handle, kindQuick, e.backoff(), strikes, second)))
		return
	}
	back := min(e.backoff()+1, maxBackoff)
	c.slots[at].CompareAndSwap(uint64(e), uint64(makeEntry(handle, kindLearn, back, 0, 0)))
	n.srv.demoted.Add(1)
	main, sub := codec.Split(handle)
	n.srv.cfg.Logger.Warn("handle moved to the workers: it held its loop up", "main", main, "sub", sub, "took", took)
}
