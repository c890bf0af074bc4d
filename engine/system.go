package engine

import (
	"strings"
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
	s.send(codec.Packet{Main: SystemMain, Sub: SubPong, Seq: p.Seq, Body: p.Body}, sendSystem)
}

// errorFixed is how long an ERROR's body is without its text, in bytes: that much goes out
// whatever the largest frame is.
const errorFixed = 6

// errorPacket is the ERROR frame about p: u16 code, u32 handle, text, in the layout's
// byte order. The text is cut to what a frame holds.
func (srv *Server) errorPacket(p codec.Packet, code ErrorCode, text string) codec.Packet {
	if most := max(srv.codec.MaxBody()-errorFixed, 0); len(text) > most {
		text = strings.ToValidUTF8(text[:most], "")
	}
	order := srv.codec.ByteOrder()
	body := make([]byte, 0, errorFixed+len(text))
	body = order.AppendUint16(body, uint16(code))
	body = order.AppendUint32(body, p.Handle())
	body = append(body, text...)
	return codec.Packet{Main: SystemMain, Sub: SubError, Seq: p.Seq, Body: body}
}

// sendError answers p with an ERROR frame; where there are no system frames the session
// closes with ReasonRefused.
func (s *Session) sendError(p codec.Packet, code ErrorCode, text string) {
	if s.srv.cfg.NoSystemFrames {
		s.beginClose(ReasonRefused)
		return
	}
	if s.send(s.srv.errorPacket(p, code, text), sendSystem) == nil {
		s.srv.errors.Add(1)
	}
}

// expel closes the session for a reason of the engine's own, behind an ERROR frame
// where there are system frames.
func (s *Session) expel(p codec.Packet, code ErrorCode, text string, why Reason) {
	if !s.srv.cfg.NoSystemFrames {
		s.sendError(p, code, text)
	}
	s.beginClose(why)
}

// sendGoAway tells the peer that the server drains.
func (s *Session) sendGoAway(grace time.Duration) {
	if s.srv.cfg.NoSystemFrames {
		return
	}
	ms := uint32(min(max(grace.Milliseconds(), 0), 1<<32-1))
	s.send(codec.Packet{Main: SystemMain, Sub: SubGoAway, Body: s.srv.codec.ByteOrder().AppendUint32(nil, ms)}, sendSystem)
}

func (s *Session) sendPing() {
	s.send(codec.Packet{Main: SystemMain, Sub: SubPing}, sendAnswer)
}
