package flight

import "fmt"

// Kind is what happened.
type Kind uint8

// The two numbers of an event, a and b, are named behind each; bytes count whole frames,
// headers included.
const (
	Open    Kind = iota + 1 // the session began
	In                      // frames were read: handle, bytes
	InMore                  // more frames were read with them, not looked at one by one: bytes in b
	Part                    // the beginning of a frame, or more of it, was read: bytes in b
	Inline                  // packets were handled on the loop: the last one's handle, microseconds
	Work                    // a worker's turn: microseconds that it was waited for, and that it took; Running while it lasts
	Out                     // frames were written: handle, bytes
	OutMore                 // more frames were written with them, not looked at one by one: bytes in b
	Block                   // the kernel took no more: bytes left in b
	Park                    // the strand waits for the peer to read
	Pause                   // nothing is read any more: why in a, as bits
	Resume                  // reading goes on
	Task                    // a function was submitted
	Timer                   // a timer fired
	Query                   // a query was done
	Fin                     // the peer's FIN
	Away                    // the connection broke, and the session waits for its peer
	Back                    // the peer has come back
	GoAway                  // the peer was told that the server drains: its grace in b, in milliseconds
	Error                   // an ERROR was sent: the handle that it is about, its code
	Stall                   // a callback blocks its goroutine: the packet's handle, milliseconds so far
	Panic                   // a callback panicked: the packet's handle
	Near                    // a limit came near: which, percent of it
	Close                   // the session began to close: the reason in a
	Gone                    // its descriptor is closed
	kinds
)

// Running is a turn's length while it lasts.
const Running = ^uint32(0)

var names = [kinds]string{"", "open", "in", "in_more", "part", "inline", "work", "out", "out_more", "blocked", "park", "pause", "resume",
	"task", "timer", "query", "fin", "away", "back", "goaway", "error", "stall", "panic", "near", "close", "gone"}

func (k Kind) String() string {
	if k < kinds && k > 0 {
		return names[k]
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// MarshalText writes the kind's name in JSON.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads it again.
func (k *Kind) UnmarshalText(b []byte) error {
	for i := Open; i < kinds; i++ {
		if names[i] == string(b) {
			*k = i
			return nil
		}
	}
	return fmt.Errorf("flight: no kind of event %q", b)
}
