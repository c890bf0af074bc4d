package engine

import (
	"net"
	"time"
)

// refusal is why a connection was not accepted.
type refusal uint8

const (
	refusedConns refusal = iota
	refusedPerIP
	refusedDrain
	refusedFiles
	refusalCount
)

var refusalNames = [refusalCount]string{"max_conns", "max_conns_per_ip", "draining", "open_files"}

func (r refusal) String() string { return name(refusalNames[:], int(r)) }

// answer is the ERROR that a refused connection gets.
func (r refusal) answer() (code ErrorCode, text string) {
	switch r {
	case refusedConns:
		return CodeLimit, "too many connections"
	case refusedPerIP:
		return CodeLimit, "too many connections from this address"
	case refusedDrain:
		return CodeDraining, "the server is going away"
	default:
		return CodeLimit, "out of open files"
	}
}

// admit says whether a connection on descriptor fd may come in. The number of a new
// descriptor is the lowest free one: when it is high, files are short.
func (srv *Server) admit(fd int, remote net.Addr) (refusal, bool) {
	switch {
	case srv.draining.Load():
		return refusedDrain, false
	case fd >= int(srv.fdShed.Load()):
		srv.plat.guard(srv)
		return refusedFiles, false
	case !srv.perIP.enter(remote, srv.cfg.MaxConnsPerIP):
		return refusedPerIP, false
	}
	return 0, true
}

// accept gives a new session a slot and takes it onto the loop; false when there is no
// slot. From the moment it has one anybody may find it, so everything it is made of
// stands before that, and its OnSocketAccept is in front of whatever others submit.
func (l *loop) accept(s *Session) bool {
	srv := l.srv
	inline := srv.cfg.Dispatch == Inline
	s.accepted = time.Now().UnixNano()
	s.ends.Store(2)
	s.rd.since = srv.now()
	s.out.pos = l.logEnd.Load() // its share of the log begins at the end
	if inline {
		s.in.state = stateRunning
		s.out.corked, s.out.active = true, true
	} else {
		s.in.put(getItem(itemAccept)) // now it is queued
	}
	if !srv.table.acquire(s) {
		return false
	}
	srv.conns.Add(1)
	l.add(s)
	l.st.accepts.Add(1)
	if !inline {
		srv.pool.push(s)
		return true
	}
	s.accept()
	l.flush(s, flushInline)
	s.leave()
	return true
}
