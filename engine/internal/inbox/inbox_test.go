package inbox

import (
	"bytes"
	"encoding/binary"
	"testing"

	"pgregory.net/rapid"

	"millrace/codec"
	"millrace/engine/internal/budget"
	"millrace/engine/internal/bufpool"
)

func newCodec(t testing.TB, maxFrame int) *codec.Codec {
	t.Helper()
	c, err := codec.New(codec.Layout{}, maxFrame)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func encode(t testing.TB, c *codec.Codec, size int) []byte {
	t.Helper()
	body := make([]byte, size)
	for i := range body {
		body[i] = byte(i*7 + size)
	}
	b, err := c.Append(nil, codec.Packet{Main: 1, Sub: 2, Body: body})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A frame that comes in any two or three pieces is whole in the end, what is behind it is
// given back, and the memory is not counted any more.
func TestEverySplitOfAFrame(t *testing.T) {
	c := newCodec(t, 1<<16)
	frame := encode(t, c, 20)
	behind := []byte("next")
	for i := 1; i < len(frame); i++ {
		for j := i; j < len(frame); j++ {
			bud := budget.New(1<<20, nil)
			var p Partial
			p.Begin(frame[:i], bud)
			if got, rest, err := p.Add(c, frame[i:j], bud); got != nil || len(rest) != 0 || err != nil {
				t.Fatalf("%d, %d: got %v, %q, %v of a part", i, j, got, rest, err)
			}
			if !p.Some() || bud.Used() != p.Held() || p.Held() < j {
				t.Fatalf("%d, %d: %v, %d counted, %d held", i, j, p.Some(), bud.Used(), p.Held())
			}
			if want := len(frame) - j; j >= 4 && p.Missing(c) != want {
				t.Fatalf("%d, %d: %d missing, want %d", i, j, p.Missing(c), want)
			}
			got, rest, err := p.Add(c, append(bytes.Clone(frame[j:]), behind...), bud)
			if err != nil || got == nil || !bytes.Equal(got.B, frame) || !bytes.Equal(rest, behind) {
				t.Fatalf("%d, %d: got %v, %q, %v", i, j, got, rest, err)
			}
			if p.Some() || p.Held() != 0 || bud.Used() != 0 {
				t.Fatalf("%d, %d: %v, %d held, %d counted behind the frame", i, j, p.Some(), p.Held(), bud.Used())
			}
			got.Free()
		}
	}
}

// Memory grows with what has come of a frame, at most to twice that, whatever its header
// claims; and the budget knows of all of it.
func TestMemoryGrowsWithWhatHasCome(t *testing.T) {
	c := newCodec(t, 4<<20)
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.SampledFrom([]int{0, 1, 500, 4096, 70_000, 1 << 20, 4<<20 - 4}).Draw(t, "size")
		frame := binary.BigEndian.AppendUint32(nil, uint32(4+size))
		frame = append(frame, make([]byte, 4+size)...)
		bud := budget.New(1<<30, nil)
		var p Partial
		at := rapid.IntRange(1, min(len(frame)-1, 70_000)).Draw(t, "first")
		p.Begin(frame[:at], bud)
		for at < len(frame) {
			n := min(len(frame)-at, rapid.SampledFrom([]int{1, 3, 100, 4096, 65_536, 1 << 20}).Draw(t, "piece"))
			if n < 100 && len(frame)-at > 5000 {
				n = 5000
			}
			got, rest, err := p.Add(c, frame[at:at+n], bud)
			at += n
			if err != nil || len(rest) != 0 || (got != nil) != (at == len(frame)) {
				t.Fatalf("at %d of %d: %v, %d left, %v", at, len(frame), got != nil, len(rest), err)
			}
			if got != nil {
				if !bytes.Equal(got.B, frame) {
					t.Fatal("other bytes")
				}
				got.Free()
				break
			}
			if most := max(512, 2*at) + bufpool.Header; p.Held() > most {
				t.Fatalf("%d bytes held for %d of %d", p.Held(), at, len(frame))
			}
			if bud.Used() != p.Held() {
				t.Fatalf("%d counted, %d held", bud.Used(), p.Held())
			}
		}
		if bud.Used() != 0 {
			t.Fatalf("%d still counted", bud.Used())
		}
	})
}

// A header that can't be, however it was cut, ends with its error, and nothing is kept.
func TestErrorsDropEverything(t *testing.T) {
	c := newCodec(t, 1000)
	for _, length := range []uint32{0, 3, 1001, 1 << 31} {
		for cut := 1; cut < 4; cut++ {
			bud := budget.New(1<<20, nil)
			b := append(binary.BigEndian.AppendUint32(nil, length), "rest"...)
			var p Partial
			p.Begin(b[:cut], bud)
			frame, rest, err := p.Add(c, b[cut:], bud)
			if err == nil || frame != nil || rest != nil || p.Some() || p.Held() != 0 || bud.Used() != 0 {
				t.Errorf("length %d, cut %d: %v, %q, %v; %d held, %d counted", length, cut, frame, rest, err, p.Held(), bud.Used())
			}
		}
	}
	bud := budget.New(1<<20, nil)
	var p Partial
	p.Drop(bud) // nothing to drop
	p.Begin([]byte{0, 0}, bud)
	p.Drop(bud)
	if p.Some() || bud.Used() != 0 {
		t.Errorf("%v, %d counted after Drop", p.Some(), bud.Used())
	}
}

// A reason to pause comes at its limit, goes at half of it, and does not touch the others.
func TestPauseHasHysteresis(t *testing.T) {
	var p Pause
	for _, step := range []struct {
		n    int
		want bool
	}{{99, false}, {100, true}, {99, true}, {51, true}, {50, false}, {99, false}, {200, true}, {0, false}} {
		p = p.With(PauseIn, step.n, 100).With(PauseOut, 100, 100)
		if got := p&PauseIn != 0; got != step.want || p&PauseOut == 0 || p&PauseBudget != 0 {
			t.Fatalf("at %d: %b, want paused %v", step.n, p, step.want)
		}
	}
}
