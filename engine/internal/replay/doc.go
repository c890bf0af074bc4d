// Package replay keeps the frames that a session has sent until its peer has acknowledged them, so
// that nothing is lost when a connection breaks and another one follows: a Ring of frames, and the
// Tokens that identify sessions. It does not use sockets or sessions.
//
// Both ends count frames; nothing is added to the frames themselves. A Ring numbers the frames
// appended to it from 0 on, and returns the bytes to be written to the present connection. An
// acknowledgement of n frees the frames below n. A new connection begins with the first frame
// that is left.
package replay
