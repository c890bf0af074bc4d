// Package replay keeps what a session has written until its peer says that it has it, so
// that a connection that breaks can be followed by another one and nothing is lost: a Ring
// of frames, the Tokens that name sessions, and the bodies of the frames in which both ends
// tell how far they have come. It knows nothing of sockets and sessions.
//
// Both ends count frames; nothing is added to them. A Ring numbers what is appended to it
// from 0 on and hands out bytes to be written to the connection of the moment. An
// acknowledgement of n frees the frames below n; a new connection begins again at the
// first that is left.
package replay
