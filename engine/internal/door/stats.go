package door

import "sync/atomic"

// counters are the values behind Stats.
type counters struct {
	front, handshaking                          atomic.Int64
	handshakes, handshakeFails, truncated, shed atomic.Uint64
	webSockets, upgrades, proxies, late         atomic.Uint64
	slowed, asked                               atomic.Uint64
	toldAt                                      atomic.Int64 // the second of the last log line

	deflated, deflateShared, deflatedFrom, deflatedTo atomic.Uint64
	inflated, badDeflates, limited                    atomic.Uint64
}

// sentDeflated counts a piece of a message that is sent compressed.
func (st *counters) sentDeflated(from, to int, first, shared bool) {
	if first {
		st.deflated.Add(1)
	}
	if shared {
		st.deflateShared.Add(1)
	}
	st.deflatedFrom.Add(uint64(from))
	st.deflatedTo.Add(uint64(to))
}

// Stats is a snapshot of the doors. Counters only grow.
type Stats struct {
	Opening     int    // connections without a session yet: their header, handshake or upgrade is in progress
	Handshaking int    // of these, TLS handshakes
	Closing     int    // connections that are closed but for their peer's FIN
	Handshakes  uint64 // TLS handshakes done
	WebSockets  uint64 // upgrades done
	Truncated   uint64 // TLS streams that ended without a close_notify

	Deflated      uint64 // WebSocket messages sent compressed
	DeflateShared uint64 // of these, messages that had just been compressed for another session
	DeflatedFrom  uint64 // their bytes before compression
	DeflatedTo    uint64 // their bytes after it
	Inflated      uint64 // compressed messages received

	BadHandshakes uint64 // TLS handshakes that failed
	Shed          uint64 // handshakes closed for MaxHandshakes
	Limited       uint64 // handshakes refused for HandshakeRate
	Slowed        uint64 // handshakes that waited for a turn, because many from their address were not completed
	Asked         uint64 // of these, handshakes that were asked for another key share (HelloRetryRequest)
	BadUpgrades   uint64 // requests that were refused instead of becoming a WebSocket
	BadProxies    uint64 // connections of a trusted proxy without a valid PROXY header
	BadDeflates   uint64 // connections closed because a message did not inflate, or inflated to too much
	Late          uint64 // connections that had no session in time
}

// Stats returns a snapshot. Any goroutine.
func (h *Host) Stats() Stats {
	c := &h.st
	return Stats{
		Opening: int(c.front.Load()), Handshaking: int(c.handshaking.Load()), Closing: int(h.idle.Load()),
		Handshakes: c.handshakes.Load(), WebSockets: c.webSockets.Load(), Truncated: c.truncated.Load(),
		BadHandshakes: c.handshakeFails.Load(), Shed: c.shed.Load(), BadUpgrades: c.upgrades.Load(), BadProxies: c.proxies.Load(), Late: c.late.Load(),
		Deflated: c.deflated.Load(), DeflateShared: c.deflateShared.Load(), DeflatedFrom: c.deflatedFrom.Load(), DeflatedTo: c.deflatedTo.Load(),
		Inflated: c.inflated.Load(), BadDeflates: c.badDeflates.Load(), Limited: c.limited.Load(), Slowed: c.slowed.Load(), Asked: c.asked.Load(),
	}
}
