package engine

import (
	"strings"

	"millrace/codec"
)

// encodeFrame appends a frame of the engine's own.
func (srv *Server) encodeFrame(dst []byte, p codec.Packet) []byte {
	if srv.cfg.Framer != nil {
		b, err := srv.cfg.Framer.Append(dst, p)
		if err != nil {
			return dst // what it can't write is nothing
		}
		return b
	}
	return srv.framing.brief.AppendFields(dst, p.Handle(), p.Seq, p.Body)
}

func (srv *Server) encodeError(p codec.Packet, code ErrorCode, text string) []byte {
	return srv.encodeFrame(nil, srv.framing.errorPacket(p, code, text))
}

// frameSize is how long the frame at the start of b is, and how much of it is missing there;
// a size of 0: that can't be said yet.
func (srv *Server) frameSize(b []byte) (size, missing int) {
	size, missing, err := srv.framing.codec.Frame(b)
	if err != nil {
		size, missing, err = srv.framing.brief.Frame(b)
	}
	if err != nil {
		return len(b), 0 // it is what a Framer wrote and does not know again
	}
	return size, missing
}

// wholeFrame is frameSize of a frame that is all there.
func (srv *Server) wholeFrame(b []byte) int {
	size, _ := srv.frameSize(b)
	return size
}

// frameFault is an error of the codec as the text of an ERROR.
func frameFault(err error) string { return strings.TrimPrefix(err.Error(), "codec: ") }
