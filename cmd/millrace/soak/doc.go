// Package soak holds no code, only a test: it runs the command with a database for as long
// as it is told, has clients of many kinds come through every door, lets one fault follow
// the other, and keeps books of everything that was asked and answered.
//
//	go test ./cmd/millrace/soak                              # some 10 s, what CI runs
//	make soak                                                # 10 minutes, report in soak.json
//	make soak SOAK=8h
//	go test ./cmd/millrace/soak -soak 2m -seed 7 -report FILE -v -timeout 10m
//
// The server lives three times: the first life ends by kill -9, the second by SIGTERM under
// load, the third lasts for most of the time and is the one in which memory, goroutines and
// descriptors are watched. Clients are stopped twice in it, once when it is warm and once at
// the end: what the server holds then must be the same.
//
// Faults: clients that are kicked, cut off, stalled, reset in crowds; drains that are taken back;
// certificates and settings that change; a database that is cut off, stalled, restarted
// and restarted without a shutdown. Among the clients are some that read slowly, that never read,
// that send what is no frame, and that stop half-way in a frame or a handshake.
//
// Checked: every answer comes in its place and once, and where a connection ends without one,
// there was a reason for it (a kill, a kick); what a group is sent reaches a member that
// resumes once, in order and without a gap; what an answer says of a row and of a key fits all that was
// answered before, and the database agrees at the end; a database's failure tells truly whether a
// statement has run; timers are not early; memory stays within the budget; nothing is left behind
// when all clients have gone; the log has no crash and no flood; the drains end with the exit
// code that they should have.
//
// It needs Linux's /proc and PostgreSQL's programs.
package soak
