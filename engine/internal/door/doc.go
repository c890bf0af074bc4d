// Package door is what stands between a socket and a session: the PROXY protocol, TLS and
// WebSocket, as layers of netio's connection. A Network wraps another one and a Host: a
// connection that comes through a door is offered to the Host once it has passed every
// layer, as a netio.Door, and is from then on a connection like any other: its Sink gets
// plain bytes, in one call for each read, and what the Host writes is framed and encrypted
// on its way. A connection to a plain tcp:// or unix:// address without a PROXY header is
// handed to the Host as it is, and no code of this package is on its path.
//
//	in:  socket → [PROXY header] → [TLS] → [HTTP upgrade, then WebSocket] → Sink
//	out: Host → [WebSocket header] → [TLS records] → socket
//
// All of a connection's work is done on its loop's goroutine, but for the TLS handshake:
// that runs on a goroutine of its own, which takes one of a few places while it computes and
// none while it waits for its client, and begins when the ClientHello is whole. What a layer holds is bounded (half a header, half a
// record, a handshake, 64 KiB of ciphertext that the kernel did not take) and counted in the
// memory budget.
package door
