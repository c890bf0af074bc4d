package engine

import (
	"errors"
	"time"

	"millrace/codec"
	"millrace/engine/internal/replay"
)

// Handoff is a Handler whose sessions can be taken over by other servers: it encodes and decodes
// the state that it keeps for a session. Both methods run in the session's order, on a worker. The
// sessions of a Handler without Handoff stay on their server.
type Handoff interface {
	// MarshalSession returns the handler's state of s, which the engine then owns. After it no
	// callback of the session runs until the session has moved, OnSocketClose with ReasonMoved, or
	// continues here because the move failed; so it must not change the state. An error keeps the
	// session here.
	MarshalSession(s *Session) (state []byte, err error)
	// UnmarshalSession is called instead of OnSocketAccept for a session that comes from another
	// server. Requests, and functions given to Submit, run after it. What it sends follows what
	// the other server has sent. After an error the session does not come, and OnSocketClose is
	// called. The callee may keep state.
	UnmarshalSession(s *Session, state []byte) error
}

// OtherServers gives access to the other servers, whose clients may come to this one with the token
// of a session that began there. Its methods are called from any goroutine.
type OtherServers interface {
	// Mark returns the first bytes of the tokens of this server's sessions, by which other servers
	// find this one. It never changes.
	Mark() [MarkLen]byte
	// Lives reports whether a server that may have the token's session is alive. It is called on a
	// loop and must not block.
	Lives(token codec.Token) bool
	// Others reports whether there is another server that can take sessions over. It must not
	// block.
	Others() bool
	// TakeOver gets a session from the server that has it: see Arrival. It is called on a
	// goroutine of its own, one for each such client, and must return when the Arrival's context
	// ends. Unless Arrival.Take has succeeded when it returns, the client gets a new session.
	TakeOver(a *Arrival)
}

// MarkLen is how many bytes of a token are its server's mark, 4 of 16. The others are random.
const MarkLen = 4

// Transfer is what moves with a session from one server to another.
type Transfer struct {
	Received uint64    // how many of the peer's frames have been handled, ever
	First    uint64    // the number, from 0, of the first of Frames among all frames sent to the peer
	Most     uint64    // the number after the last frame that the peer may have received
	Frames   []byte    // consecutive whole frames that the peer has not received
	Accepted time.Time // when the session's first connection was accepted
	State    []byte    // MarshalSession's result
}

// Why a session is not given to another server.
var (
	// ErrUnknownToken: no session has that token, or it has closed or moved.
	ErrUnknownToken = errors.New("engine: unknown token")
	// ErrBeingTaken: another server is taking the session.
	ErrBeingTaken = errors.New("engine: another server is taking the session")
	// ErrUnsettled: requests of the session were still in progress when the context ended.
	ErrUnsettled = errors.New("engine: requests of the session are in progress")
	// ErrTransferTooLarge: the session's unsent frames and state are larger than the limit, or frames
	// that the peer lacks are no longer kept.
	ErrTransferTooLarge = errors.New("engine: the frames and state of the session are too large to move")
	// ErrNoHandoff: the Handler does not implement Handoff.
	ErrNoHandoff = errors.New("engine: the handler does not implement Handoff, so its sessions stay")
)

// SetOtherServers sets the other servers that sessions may come from and go to. It must be called
// before Start. With nil, or without Config.Resume, sessions stay here.
func (srv *Server) SetOtherServers(e OtherServers) {
	if e == nil {
		srv.carrier.Store(nil)
		return
	}
	srv.carrier.Store(&e)
}

// otherServers returns what SetOtherServers was given; nil without Config.Resume.
func (srv *Server) otherServers() OtherServers {
	if e := srv.carrier.Load(); e != nil && srv.resumes() {
		return *e
	}
	return nil
}

// evacuates reports whether a draining server keeps its sessions for others to take over.
func (srv *Server) evacuates() bool {
	e := srv.otherServers()
	if e == nil || srv.cfg.Handover <= 0 {
		return false
	}
	_, ok := srv.handler().(Handoff)
	return ok && e.Others()
}

// newToken returns a new token for a session of this server, with its mark.
func (srv *Server) newToken() codec.Token {
	t := replay.NewToken()
	if e := srv.otherServers(); e != nil {
		mark := e.Mark()
		copy(t[:], mark[:])
	}
	return t
}

// TokenSum is the SHA-256 of a token. With it another server can ask for a session without revealing
// the token.
type TokenSum [32]byte

// SumOf returns the sum of a token.
func SumOf(t codec.Token) TokenSum { return replay.Sum(t) }

// onlyFrames reports whether b consists of whole frames.
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
