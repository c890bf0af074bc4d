// Package door has the layers between a socket and a session: the PROXY protocol, TLS and WebSocket,
// as layers over netio.Conn. A Host is put between a network and the engine's netio.Host: when a
// connection has passed all of its layers, it is offered to the engine as a netio.Door, and is used
// like any other connection: its Sink gets plain bytes, and what the engine writes is framed and
// encrypted. A connection to a plain tcp:// or unix:// address without a PROXY header is passed to
// the engine unchanged, and no code of this package runs for it.
//
//	in:  socket → [PROXY header] → [TLS] → [HTTP upgrade, then WebSocket] → Sink
//	out: Host → [WebSocket header] → [TLS records] → socket
//
// Everything runs on the connection's loop goroutine, except TLS handshakes. A handshake has a
// goroutine of its own, which begins when the ClientHello is complete; only a few compute at the same
// time, and one that waits for its client does not count. What a layer holds is bounded (part of a
// header, part of a record, a handshake, 64 KiB of ciphertext that the kernel did not take) and
// counted in the memory budget.
package door
