package engine

import (
	"strings"

	"millrace/codec"
)

// encodeFrame appends a frame of the engine.
func (srv *Server) encodeFrame(dst []byte, p codec.Packet) []byte {
	if srv.cfg.Framer != nil {
		b, err := srv.cfg.Framer.Append(dst, p)
		if err != nil {
			return dst // nothing if the framing can't represent it
		}
		return b
	}
	return srv.framing.brief.AppendFields(dst, p.Handle(), p.Seq, p.Body)
}

func (srv *Server) encodeError(p codec.Packet, code ErrorCode, text string) []byte {
	return srv.encodeFrame(nil, srv.framing.errorPacket(p, code, text))
}

// frameSize returns the size of the frame at the start of b, and how much of it is missing; a size
// of 0 means that it is unknown yet.
func (srv *Server) frameSize(b []byte) (size, missing int) {
	size, missing, err := srv.framing.codec.Frame(b)
	if err != nil {
		size, missing, err = srv.framing.brief.Frame(b)
	}
	if err != nil {
		return len(b), 0 // written by a Framer that can't read it back
	}
	return size, missing
}

// wholeFrame is frameSize for a complete frame.
func (srv *Server) wholeFrame(b []byte) int {
	size, _ := srv.frameSize(b)
	return size
}

// frameFault converts an error of the codec to the text of an ERROR.
func frameFault(err error) string { return strings.TrimPrefix(err.Error(), "codec: ") }
