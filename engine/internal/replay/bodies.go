package replay

// Order writes and reads integers: the byte order of the frames.
type Order interface {
	Uint64(b []byte) uint64
	AppendUint64(b []byte, v uint64) []byte
}

// Version is that of the HELLO frames.
const Version = 1

const (
	freshLen   = 2
	resumeLen  = freshLen + 16 + 8
	WelcomeLen = 1 + 16 + 8 // bytes of a WELCOME's body
	AckLen     = 8          // bytes of an ACK's body

	HelloMost = resumeLen // bytes of a HELLO's body at most

	flagResumed = 1
)

// Hello is what a client's HELLO says.
type Hello struct {
	Resume   bool // to go on with the session that Token names
	Token    Token
	Received uint64 // counted frames of that session that the client has had
}

// ParseHello reads a HELLO's body; false: it is of another version or form.
func ParseHello(b []byte, o Order) (h Hello, ok bool) {
	if len(b) != freshLen && len(b) != resumeLen || b[0] != Version || b[1] != 0 {
		return h, false
	}
	if len(b) == resumeLen {
		h.Resume = true
		copy(h.Token[:], b[freshLen:])
		h.Received = o.Uint64(b[freshLen+16:])
	}
	return h, true
}

// AppendWelcome appends a WELCOME's body.
func AppendWelcome(b []byte, resumed bool, t Token, received uint64, o Order) []byte {
	flags := byte(0)
	if resumed {
		flags = flagResumed
	}
	return o.AppendUint64(append(append(b, flags), t[:]...), received)
}

// ParseAck reads an ACK's body; false: it is none.
func ParseAck(b []byte, o Order) (n uint64, ok bool) {
	if len(b) != AckLen {
		return 0, false
	}
	return o.Uint64(b), true
}
