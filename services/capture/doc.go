// Package capture keeps what the sessions of a server read and write, bodies included, in
// files that other tools open, and plays them again.
//
//	w, err := capture.Create(capture.Config{Path: "traffic.pcapng"})
//	if err != nil { … }
//	defer w.Close()
//	srv, err := engine.New(engine.Config{Tap: w, …}, handler)
//
// A file is pcapng (draft-ietf-opsawg-pcapng) of raw IP packets: what a session read and
// wrote appears as a TCP connection between the peer's address and the server's, so that
// Wireshark follows it, and capinfos and tshark read it. The packets are made up: they bring
// what came out of TLS and WebSocket, one packet for what was read or written together, and
// sequence numbers that skip what was not kept. A packet with PSH begins with a frame. A
// connection's SYN has a comment that names the session.
//
// Loops never wait for the file: what they show waits in a queue of a fixed size, and what
// finds no room there is left out and counted, in the file too. A Writer has one goroutine.
//
// A server's FILE.1 and FILE, and what is kept of them, are one recording to [OpenSet].
//
// [Play] opens a connection for each session of a file and sends what its peer sent, at the
// same times, faster, or as fast as it goes, and compares how many answers of each handle,
// and ERRORs of each code, come back.
package capture
