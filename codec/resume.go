package codec

// Token identifies a session that can be resumed: random bytes, to be kept secret.
type Token [16]byte

// helloVersion is the only version of HELLO.
const helloVersion = 1

// Hello is the body of a HELLO (0/5): a client's request for a session that survives a lost
// connection.
type Hello struct {
	Resume   bool   // resume the session of Token; otherwise Token and Received are not sent
	Token    Token  // of the last WELCOME
	Received uint64 // counted frames that the client has received since the session began
}

// Welcome is the body of a WELCOME (0/6), the answer to a Hello.
type Welcome struct {
	Resumed  bool   // the session was resumed; otherwise it is new
	Token    Token  // for the next Hello
	Received uint64 // counted frames that the server has received since the session began
}

// MaxHello is the largest size of a HELLO's body, in bytes.
const MaxHello = oldHello

// Sizes of the bodies, in bytes.
const (
	newHello = 2
	countLen = 8
	oldHello = newHello + len(Token{}) + countLen
	welcome  = 1 + len(Token{}) + countLen
)

// AppendHello appends the body of h to dst and returns the extended slice.
func (c *Codec) AppendHello(dst []byte, h Hello) []byte {
	dst = append(dst, helloVersion, 0)
	if !h.Resume {
		return dst
	}
	dst = append(dst, h.Token[:]...)
	return c.AppendCount(dst, h.Received)
}

// ParseHello parses the body of a HELLO; ok is false for another version, size or flags. It keeps
// no reference to b.
func (c *Codec) ParseHello(b []byte) (h Hello, ok bool) {
	if len(b) != newHello && len(b) != oldHello || b[0] != helloVersion || b[1] != 0 {
		return Hello{}, false
	}
	if len(b) == newHello {
		return Hello{}, true
	}
	h.Resume = true
	h.Received, ok = c.ParseCount(b[newHello+copy(h.Token[:], b[newHello:]):])
	return h, ok
}

// AppendWelcome appends the body of w to dst and returns the extended slice.
func (c *Codec) AppendWelcome(dst []byte, w Welcome) []byte {
	flags := byte(0)
	if w.Resumed {
		flags = 1
	}
	dst = append(dst, flags)
	dst = append(dst, w.Token[:]...)
	return c.AppendCount(dst, w.Received)
}

// ParseWelcome parses the body of a WELCOME; ok is false for another size or flags. It keeps no
// reference to b.
func (c *Codec) ParseWelcome(b []byte) (w Welcome, ok bool) {
	if len(b) != welcome || b[0] > 1 {
		return Welcome{}, false
	}
	w.Resumed = b[0] == 1
	w.Received, ok = c.ParseCount(b[1+copy(w.Token[:], b[1:]):])
	return w, ok
}

// AppendCount appends the body of an ACK (0/7) to dst and returns the extended slice: the number of
// counted frames received since the session began, in the codec's byte order.
func (c *Codec) AppendCount(dst []byte, n uint64) []byte { return c.ByteOrder().AppendUint64(dst, n) }

// ParseCount parses the body of an ACK; ok is false for another size.
func (c *Codec) ParseCount(b []byte) (n uint64, ok bool) {
	if len(b) != countLen {
		return 0, false
	}
	return c.ByteOrder().Uint64(b), true
}
