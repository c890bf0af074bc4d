package engine

import (
	"time"

	"millrace/codec"
	"millrace/engine/internal/dispatch"
)

// handles says where packets run, by their handle.
type handles struct {
	srv    *Server
	table  *dispatch.Table
	mode   dispatch.Mode
	learns bool // adaptive dispatch measures what runs
	timed  bool // somebody wants to know how long inline turns take
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

// SetDispatch fixes where a handle's packets run: Ordered for a handle that blocks,
// Inline for one known to be quick; Adaptive takes that back. It holds from the next
// packet on, whatever the server's own dispatch.
func (srv *Server) SetDispatch(handle uint32, d Dispatch) {
	srv.handles.table.Fix(handle, dispatch.Mode(d))
	srv.costs.name(handle)
}

// RunsInline tells whether a handle's packets run on the loops now, where their sessions'
// strands are idle.
func (srv *Server) RunsInline(handle uint32) bool {
	return srv.handles.table.Inline(handle, srv.handles.mode)
}

// some tells whether any packet may run on a loop of that mode.
func (n *handles) some(mode dispatch.Mode) bool { return n.table.AnyInline(mode) }

// measure runs a packet on a worker, timing handles that are still being learned.
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

// judge looks at an inline turn of some frames, those in b, that took so long: handles
// that hold a loop up go back to the workers. Several handles in one turn are judged by
// all of it, each once.
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
			return // one is enough to see that the slow ones get fewer
		}
	}
}

// demote sends a handle back to the workers whose packet holds its loop up.
func (n *handles) demote(handle uint32, took time.Duration) {
	if n.table.Demote(handle) {
		n.tell(handle, took)
	}
}

func (n *handles) tell(handle uint32, took time.Duration) {
	n.srv.demoted.Add(1)
	main, sub := codec.Split(handle)
	n.srv.cfg.Logger.Warn("handle moved to the workers: it held its loop up", "main", main, "sub", sub, "a packet", took)
}
