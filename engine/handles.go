package engine

import (
	"time"

	"millrace/codec"
	"millrace/engine/internal/dispatch"
)

// handles determines where packets run, by handle.
type handles struct {
	srv    *Server
	table  *dispatch.Table
	mode   dispatch.Mode
	learns bool // adaptive dispatch measures handles
	timed  bool // the time of inline turns is needed
}

func (n *handles) init(srv *Server) {
	fixed := map[uint32]dispatch.Mode{}
	for handle, d := range srv.cfg.Handles {
		fixed[handle] = dispatch.Mode(d)
	}
	n.table = dispatch.New(fixed)
	n.srv, n.mode, n.learns = srv, dispatch.Mode(srv.cfg.Dispatch), srv.cfg.Dispatch == Adaptive
	n.timed = n.learns || srv.taps
}

// SetDispatch sets where a handle's packets run: Ordered for a handle that blocks, Inline for one
// known to be quick; Adaptive removes the setting. It applies from the next packet on, whatever the
// server's dispatch.
func (srv *Server) SetDispatch(handle uint32, d Dispatch) {
	srv.handles.table.Fix(handle, dispatch.Mode(d))
	srv.costs.name(handle)
}

// RunsInline reports whether a handle's packets currently run on the loops, if their sessions'
// strands are idle.
func (srv *Server) RunsInline(handle uint32) bool {
	return srv.handles.table.Inline(handle, srv.handles.mode)
}

// some reports whether any packet may run on a loop with that mode.
func (n *handles) some(mode dispatch.Mode) bool { return n.table.AnyInline(mode) }

// measure runs a packet on a worker, and times handles that are still being measured.
func (n *handles) measure(s *Session, h Handler, p codec.Packet) {
	if !n.table.Learning(p.Handle()) {
		h.OnSocketRead(s, p)
		return
	}
	handle := p.Handle()
	began := n.srv.now()
	h.OnSocketRead(s, p)
	n.table.Learn(handle, time.Duration(n.srv.now()-began))
}

// judge evaluates the time of an inline turn of some frames, those in b: handles that block a loop
// are moved back to the workers. If a turn had several handles, each is charged the whole time,
// once.
func (n *handles) judge(c *codec.Codec, b []byte, frames int, took time.Duration) {
	const most = 8 // handles of one turn
	var seen [most]uint32
	judged := 0
	slow := dispatch.Slow(frames, took)
next:
	for len(b) > 0 && judged < most {
		size, _, _ := c.Frame(b)
		handle := c.Packet(b[:size:size]).Handle()
		b = b[size:]
		for _, h := range seen[:judged] {
			if h == handle {
				continue next
			}
		}
		seen[judged] = handle
		judged++
		if n.table.Judge(handle, frames, took) {
			n.tell(handle, took/time.Duration(frames))
		}
		if !slow {
			return // one at a time is enough to reduce the slow ones
		}
	}
}

// demote moves a handle back to the workers because its packet blocks its loop.
func (n *handles) demote(handle uint32, took time.Duration) {
	if n.table.Demote(handle) {
		n.tell(handle, took)
	}
}

func (n *handles) tell(handle uint32, took time.Duration) {
	n.srv.demoted.Add(1)
	main, sub := codec.Split(handle)
	n.srv.cfg.Logger.Warn("handle moved to the workers: it blocked its loop", "main", main, "sub", sub, "took", took)
}
