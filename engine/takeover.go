package engine

import (
	"errors"
	"time"

	"millrace/codec"
	"millrace/engine/internal/replay"
)

// Handoff is a Handler whose sessions may be taken over by other servers: it makes bytes of
// what it keeps of a session, and the same of such bytes. Both run in the session's order. A
// Handler without it keeps its sessions where they are.
type Handoff interface {
	// MarshalSession returns what the handler keeps of s. Behind it nothing of the session runs
	// until the session has gone, OnSocketClose with ReasonMoved, or goes on here after all; so
	// it must not change what it reads. An error keeps the session here.
	MarshalSession(s *Session) (state []byte, err error)
	// UnmarshalSession is called, in the place of OnSocketAccept, for a session that comes from
	// another server. Requests, and functions given to Submit, run behind it. What it sends
	// comes behind what the other server has sent. With an error the session does not come, and
	// there is an OnSocketClose. state is the callee's.
	UnmarshalSession(s *Session, state []byte) error
}

// Elsewhere are the other servers whose clients may come to this one with a session that
// they began there. Its methods are called from any goroutine.
type Elsewhere interface {
	// Mark is what the tokens of this server's sessions begin with, so that others know whom
	// to ask. It does not change.
	Mark() [MarkLen]byte
	// Lives tells whether a server that may have the token's session lives. It must not block:
	// it is called on a loop.
	Lives(token codec.Token) bool
	// Others tells whether there is another server that could take sessions over. It must not
	// block.
	Others() bool
	// TakeOver gets a session from where it is: see Arrival. It is called on a goroutine of its
	// own, one for each client that asks, and ends with the Arrival's context at the latest.
	// Unless Arrival.Take has succeeded when it returns, the client gets a new session.
	TakeOver(a *Arrival)
}

// MarkLen is how many bytes of a token are its server's mark. The others are random.
const MarkLen = 4

// Carried is what a session takes along from one server to another, besides what Handoff
// keeps of it.
type Carried struct {
	Received uint64    // the peer's frames that were handled here
	First    uint64    // the number of the first of Frames among all for the peer
	Most     uint64    // the number behind the last frame that the peer may have
	Frames   []byte    // whole frames that the peer has not got, one behind another
	Accepted time.Time // when its first connection was accepted
	State    []byte    // MarshalSession's
}

// Why a session is not given to another server.
var (
	// ErrUnknownToken: no session is found by that token, or not any more.
	ErrUnknownToken = errors.New("engine: unknown token")
	// ErrBeingTaken: another server is taking the session.
	ErrBeingTaken = errors.New("engine: another server is taking the session")
	// ErrUnsettled: requests of the session are still under way when time is up.
	ErrUnsettled = errors.New("engine: requests of the session are under way")
	// ErrCarriedTooLarge: what the session would take along is more than may be.
	ErrCarriedTooLarge = errors.New("engine: the session would take along too much")
	// ErrNoHandoff: the handler keeps its sessions.
	ErrNoHandoff = errors.New("engine: the handler has no Handoff")
)

// SetElsewhere names the other servers that sessions may come from and go to. It is called
// before Start; nil, or without Config.Resume, sessions stay here.
func (srv *Server) SetElsewhere(e Elsewhere) {
	if e == nil {
		srv.carrier.Store(nil)
		return
	}
	srv.carrier.Store(&e)
}

// elsewhere is what SetElsewhere was given.
func (srv *Server) elsewhere() Elsewhere {
	if e := srv.carrier.Load(); e != nil && srv.resumes() {
		return *e
	}
	return nil
}

// evacuates tells whether sessions of a draining server are kept for others to take over.
func (srv *Server) evacuates() bool {
	e := srv.elsewhere()
	if e == nil || srv.cfg.Handover <= 0 {
		return false
	}
	_, ok := srv.handler().(Handoff)
	return ok && e.Others()
}

// newToken is a token that finds a session of this server, also for others.
func (srv *Server) newToken() codec.Token {
	t := replay.NewToken()
	if e := srv.elsewhere(); e != nil {
		mark := e.Mark()
		copy(t[:], mark[:])
	}
	return t
}

// TokenSum is what a session can be asked for by, without its token being told.
type TokenSum [32]byte

// SumOf returns a token's.
func SumOf(t codec.Token) TokenSum { return replay.Sum(t) }

// onlyFrames tells whether b is whole frames, one behind another.
func (srv *Server) onlyFrames(b []byte) bool {
	for len(b) > 0 {
		size, missing := srv.frameSize(b)
		if size <= 0 || missing > 0 || size > len(b) {
			return false
		}
		b = b[size:]
	}
	return true
}
