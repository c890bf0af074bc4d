// Package codec turns bytes into Main/Sub packets and back. It knows nothing of sockets.
//
// The default frame, all integers big-endian:
//
//	0               4         6         8                      4+Length
//	| Length u32    | Main u16| Sub u16 | Body (Length-4 bytes) |
//
// Length counts the bytes behind the length field. [Layout] describes the other
// frames that existing clients speak; [New] checks a Layout once and gives a
// [Codec], which decodes and encodes without allocating:
//
//	b := codec.Packet{Main: 1, Sub: 1, Body: []byte("hi")}.Append(nil)
//	p, n, missing, err := codec.Default().Decode(b)
//
// What a layout can't say, such as a Main of 300 in one byte, is an error and never cut
// to what fits: [Codec.Check] tells before anything is sent.
//
// Streams that are framed otherwise, by a varint, by lines, a delimiter, a fixed size or a
// function of your own, have a [Framer], and [Decode] in place of [Codec.Decode]:
//
//	f, err := codec.Line(4 << 10)
//	p, n, missing, err := codec.Decode(f, b, 0)
//
// testdata/vectors.json has frames, good and bad, of all of these, and the bodies of the
// system frames, as bytes: what a codec in any language should read and write.
//
// A server decodes out of its own buffers with [Codec.Decode]; a client reads and
// writes a stream with [Reader] and [Writer]. Nothing here blocks except the
// io.Reader and io.Writer given to those two, nothing starts a goroutine, and a
// Codec is safe for use by many goroutines at once.
package codec
