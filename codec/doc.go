// Package codec converts between bytes and Main/Sub packets. It does not use sockets.
//
// The default frame, all integers big-endian:
//
//	0               4         6         8                      4+Length
//	| Length u32    | Main u16| Sub u16 | Body (Length-4 bytes) |
//
// Length is the number of bytes after the length field. [Layout] describes other frame formats, for
// existing clients; [New] checks a Layout once and returns a [Codec], which decodes and encodes
// without allocating:
//
//	b := codec.Packet{Main: 1, Sub: 1, Body: []byte("hi")}.Append(nil)
//	p, n, missing, err := codec.Default().Decode(b)
//
// A value that does not fit a layout, such as a Main of 300 in one byte, is an error and never
// truncated: [Codec.Check] detects it before anything is sent.
//
// Streams with another framing, such as a varint length, lines, a delimiter, a fixed size or a
// function of your own, use a [Framer], and [Decode] instead of [Codec.Decode]:
//
//	f, err := codec.Line(4 << 10)
//	p, n, missing, err := codec.Decode(f, b, 0)
//
// testdata/vectors.json has valid and invalid frames of all of these, and the bodies of the system
// frames, as bytes: test vectors for a codec in any language.
//
// A server decodes from its own buffers with [Codec.Decode]; a client reads and writes a stream
// with [Reader] and [Writer]. Only the io.Reader and io.Writer given to those two may block,
// nothing starts a goroutine, and a Codec may be used by many goroutines at once.
package codec
