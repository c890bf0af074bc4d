package engine

import (
	"crypto/tls"
	"net"
	"syscall"
	"time"

	"millrace/engine/internal/netio"
)

// RemoteAddr is that of the connection that is or was there last.
func (ln *line) RemoteAddr() net.Addr { return ln.at.Load().c.RemoteAddr() }

// LocalAddr is the address that it came to.
func (ln *line) LocalAddr() net.Addr { return ln.at.Load().c.LocalAddr() }

// SyscallConn gives access to its descriptor while it is open.
func (ln *line) SyscallConn() (syscall.RawConn, error) { return ln.at.Load().c.SyscallConn() }

// Transport names what it came through.
func (ln *line) Transport() string { return ln.at.Load().transport }

// TLS is the state of its TLS.
func (ln *line) TLS() *tls.ConnectionState { return ln.at.Load().tls }

// Since is when the session's first connection was accepted.
func (ln *line) Since() time.Time { return time.Unix(0, ln.s.accepted) }

// Owed and Finish: what a line has begun it ends by itself.
func (ln *line) Owed() int     { return 0 }
func (ln *line) Shown() int    { return 0 } // what is taken of a frame is kept
func (ln *line) Finish([]byte) {}

// SetCloseCode says what a WebSocket is to be closed with.
func (ln *line) SetCloseCode(code uint16) {
	if k := ln.cur; k != nil {
		k.loop.run(ln.home, func() {
			if d, ok := k.c.(netio.Door); ok && k.state == linkJoined {
				d.SetCloseCode(code)
			}
		})
	}
}

// stalled is the function of that name for a link. A session that can be resumed waits for
// the next one; it may be another loop's, so that what comes of it is not known here.
func (k *link) stalled() bool {
	switch k.state {
	case linkPlain:
		return stalled(k.sink)
	case linkPending:
		k.timedOut(ReasonFrame)
	case linkJoining:
		return false
	case linkJoined:
		ln := k.line
		ln.home.with(ln.s, k.loop, func() { ln.home.linkStalled(ln, k) })
		return false
	}
	return true
}

// linkStalled ends a link whose peer has stood still, unless the session's clocks do too.
func (l *loop) linkStalled(ln *line, k *link) {
	s := ln.s
	switch {
	case ln.cur != k || s.rd.life != lifeOpen || s.rd.input == inputBad || s.closed(): // other clocks run
	case s.rd.paused != 0 || l.busy(s) || k.mailbox.Load() > 0:
	default:
		l.timedOut(s, ReasonFrame)
	}
}
