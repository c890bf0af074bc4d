package engine

import (
	"time"

	"millrace/codec"
)

// reserved tells whether p is the engine's own to answer.
func (srv *Server) reserved(p codec.Packet) bool {
	return p.Main == SystemMain && !srv.cfg.NoSystemFrames
}

// system answers a packet of Main 0. pinged: the loop has answered PINGs already.
func (s *Session) system(p codec.Packet, pinged bool) {
	switch {
	case p.Sub == SubPing && len(p.Body) > maxPing:
		s.sendError(p, CodeBadBody, "a PING has at most 64 bytes")
	case p.Sub == SubPing:
		if !pinged {
			s.pong(p)
		}
	case p.Sub == SubPong:
	default:
		s.sendError(p, CodeUnknownHandle, "unknown system frame")
	}
}

func (s *Session) pong(p codec.Packet) {
	s.send(codec.Packet{Main: SystemMain, Sub: SubPong, Seq: p.Seq, Body: p.Body}, false)
}

// errorPacket is the ERROR frame about p: u16 code, u32 handle, text, in the layout's
// byte order.
func (srv *Server) errorPacket(p codec.Packet, code ErrorCode, text string) codec.Packet {
	order := srv.codec.ByteOrder()
	body := make([]byte, 0, 6+len(text))
	body = order.AppendUint16(body, uint16(code))
	body = order.AppendUint32(body, p.Handle())
	body = append(body, text...)
	return codec.Packet{Main: SystemMain, Sub: SubError, Seq: p.Seq, Body: body}
}

// sendError sends an ERROR frame where there are system frames; where there are none
// the session closes with ReasonRefused, unless it is closing anyway.
func (s *Session) sendError(p codec.Packet, code ErrorCode, text string) {
	s.srv.errors.Add(1)
	s.Error(p, code, text)
}

// sendGoAway tells the peer that the server drains.
func (s *Session) sendGoAway(grace time.Duration) {
	if s.srv.cfg.NoSystemFrames {
		return
	}
	ms := uint32(min(max(grace.Milliseconds(), 0), 1<<32-1))
	s.send(codec.Packet{Main: SystemMain, Sub: SubGoAway, Body: s.srv.codec.ByteOrder().AppendUint32(nil, ms)}, false)
}

func (s *Session) sendPing() {
	s.send(codec.Packet{Main: SystemMain, Sub: SubPing}, false)
}
