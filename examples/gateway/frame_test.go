package main

import (
	"bytes"
	"errors"
	"testing"

	"millrace/codec"
)

// The check value of CRC-16/CCITT-FALSE.
func TestCRC(t *testing.T) {
	if got := crc16([]byte("123456789")); got != 0x29B1 {
		t.Errorf("got %#04x, want 0x29b1", got)
	}
}

// What is written is read back, however the stream is cut; what is changed on its way is refused.
func FuzzFrames(f *testing.F) {
	f.Add(uint8(2), []byte("21.5"), 3)
	f.Add(uint8(255), []byte{}, 0)
	f.Fuzz(func(t *testing.T, kind uint8, body []byte, cut int) {
		p := codec.Packet{Main: device, Sub: uint16(kind), Body: body}
		b, err := frame{}.Append([]byte("before"), p)
		if len(body) > maxBody {
			if !errors.Is(err, codec.ErrBodyTooLarge) || string(b) != "before" {
				t.Fatalf("a body of %d bytes: %q, %v", len(body), b, err)
			}
			return
		}
		b = b[len("before"):]
		cut = int(uint(cut) % uint(len(b)))
		if _, n, missing, err := codec.Decode(frame{}, b[:cut], 0); n != 0 || err != nil || missing < 1 || missing > len(b)-cut {
			t.Fatalf("%d of %d bytes: took %d, misses %d, %v", cut, len(b), n, missing, err)
		}
		got, n, _, err := codec.Decode(frame{}, append(b, start), 0)
		if err != nil || n != len(b) || got.Main != device || got.Sub != p.Sub || !bytes.Equal(got.Body, body) {
			t.Fatalf("got %v (%d bytes), %v, want %v", got, n, err, p)
		}
		b[cut] ^= 0x10 // a length that is changed may make the frame longer
		if _, n, missing, err := codec.Decode(frame{}, b, 0); !errors.Is(err, codec.ErrBadFrame) && (n != 0 || missing == 0) {
			t.Fatalf("byte %d is changed: took %d, %v", cut, n, err)
		}
	})
}
