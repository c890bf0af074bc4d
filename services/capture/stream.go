package capture

import (
	"net/netip"

	"millrace/engine"
)

// stream is a session as a TCP connection.
type stream struct {
	peer, local netip.AddrPort
	seq         [2]uint32 // of the next byte from the peer, and from the server
}

// stream finds the session's.
func (w *Writer) stream(s *engine.Session) *stream {
	st := w.streams[s.ID()]
	if st == nil {
		st = &stream{seq: [2]uint32{1, 1}}
		st.peer, st.local = addresses(s)
		w.streams[s.ID()] = st
	}
	return st
}

// segment is a packet with what the peer has sent, or the server.
func (st *stream) segment(by what, flags byte, payload []byte) packet {
	p := packet{from: st.peer, to: st.local, seq: st.seq[fromPeer], ack: st.seq[fromServer], flags: flags, payload: payload}
	if by == fromServer {
		p.from, p.to, p.seq, p.ack = p.to, p.from, p.ack, p.seq
	}
	return p
}

// encode appends an entry's packets to what is to be written.
func (w *Writer) encode(e entry, b []byte) {
	defer w.flushFull()
	st := w.stream(e.s)
	switch e.what {
	case opened:
		p := st.segment(fromPeer, flagSYN, nil)
		p.seq, p.ack = p.seq-1, 0
		w.buf = appendPacket(w.buf, e.at, true, p, title(e.s))
	case fromPeer, fromServer:
		for first := true; len(b) > 0; first = false {
			n := min(len(b), maxPayload)
			flags := byte(flagACK)
			if first && e.whole {
				flags |= flagPSH
			}
			w.buf = appendPacket(w.buf, e.at, e.what == fromPeer, st.segment(e.what, flags, b[:n]), "")
			st.seq[e.what] += uint32(n)
			b = b[n:]
			w.flushFull()
		}
	case closed:
		by, flags := fromServer, byte(flagFIN|flagACK)
		switch e.why {
		case engine.ReasonPeerClosed:
			by = fromPeer
		case engine.ReasonPeerReset:
			by, flags = fromPeer, flagRST|flagACK
		}
		w.buf = appendPacket(w.buf, e.at, by == fromPeer, st.segment(by, flags, nil), "closed: "+e.why.String())
		delete(w.streams, e.s.ID())
	}
}
