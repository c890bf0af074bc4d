package engine

import (
	"crypto/tls"
	"net"
	"syscall"
	"time"

	"millrace/engine/internal/netio"
)

// RemoteAddr returns that of the current or last connection.
func (ln *line) RemoteAddr() net.Addr { return ln.at.Load().c.RemoteAddr() }

// LocalAddr returns the local address of that connection.
func (ln *line) LocalAddr() net.Addr { return ln.at.Load().c.LocalAddr() }

// SyscallConn gives access to its descriptor while it is open.
func (ln *line) SyscallConn() (syscall.RawConn, error) { return ln.at.Load().c.SyscallConn() }

// Transport returns its transport.
func (ln *line) Transport() string { return ln.at.Load().transport }

// TLS returns its TLS state.
func (ln *line) TLS() *tls.ConnectionState { return ln.at.Load().tls }

// Since returns when the session's first connection was accepted.
func (ln *line) Since() time.Time { return time.Unix(0, ln.s.accepted) }

// Unread returns how many received bytes are in the kernel's buffer.
func (ln *line) Unread() int { return ln.view().unread }

// Unacked returns how many bytes are unwritten or unacknowledged.
func (ln *line) Unacked() int { return ln.view().unacked + ln.unsent() }

// Acks returns what the kernel knows of the peer's acknowledgements.
func (ln *line) Acks() netio.Acks {
	a := ln.view().acks
	a.Owed = a.Owed || ln.unsent() > 0
	return a
}

// Owed and Finish do nothing: a line completes what it has begun by itself.
func (ln *line) Owed() int     { return 0 }
func (ln *line) Shown() int    { return 0 } // accepted parts of a frame are kept
func (ln *line) Finish([]byte) {}

// SetCloseCode sets the close code of a WebSocket.
func (ln *line) SetCloseCode(code uint16) {
	if k := ln.cur; k != nil {
		k.loop.run(ln.home, func() {
			if d, ok := k.c.(netio.Door); ok && k.state == linkJoined {
				d.SetCloseCode(code)
			}
		})
	}
}

// stalled is the same for a link. A session that can be resumed waits for the next link; it may
// belong to another loop, so that the outcome is unknown here.
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

// linkStalled ends a link whose peer has stalled, unless the session's timeouts are suspended.
func (l *loop) linkStalled(ln *line, k *link) {
	s := ln.s
	switch {
	case ln.cur != k || s.rd.life != lifeOpen || s.rd.input == inputBad || s.closed(): // other timeouts apply
	case s.rd.paused != 0 || l.busy(s) || k.mailbox.Load() > 0:
	default:
		l.timedOut(s, ReasonFrame)
	}
}
