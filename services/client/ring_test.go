package client

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"

	"millrace/codec"
)

// The ring is a list of frames, of which some were given to a connection and the first ones
// are forgotten when they are acknowledged. What take has returned stays as it is until the
// write of it is over.
func TestRingAgainstAList(t *testing.T) {
	cd := codec.Default()
	rapid.Check(t, func(t *rapid.T) {
		var r ring
		var frames [][]byte // not acknowledged
		var acked, pushed, taken, given uint64
		var window, want []byte // of a write that is under way
		t.Repeat(map[string]func(*rapid.T){
			"push": func(t *rapid.T) {
				p := codec.Packet{Main: 1, Body: bytes.Repeat([]byte{byte(pushed)}, rapid.SampledFrom([]int{0, 1, 7, 300, 5000, 40_000}).Draw(t, "size"))}
				if err := r.push(cd, p); err != nil {
					t.Fatal(err)
				}
				frames = append(frames, p.Append(nil))
				pushed++
			},
			"refuse": func(t *rapid.T) {
				if err := r.push(cd, codec.Packet{Body: make([]byte, cd.MaxBody()+1)}); err == nil {
					t.Fatal("a body that no frame holds was taken")
				}
			},
			"take": func(t *rapid.T) {
				if r.busy {
					t.Skip("there is one writer")
				}
				window = r.take()
				want = bytes.Join(frames[given-acked:], nil)
				given, taken = pushed, pushed
			},
			"written": func(*rapid.T) { r.busy, window, want = false, nil, nil },
			"ack": func(t *rapid.T) {
				n := rapid.Uint64Range(0, pushed+2).Draw(t, "n")
				if got := r.ack(n); got != (n <= given) {
					t.Fatalf("ack %d of %d given: got %v", n, given, got)
				}
				if n > acked && n <= given {
					frames, acked = frames[n-acked:], n
				}
			},
			"rewind": func(t *rapid.T) {
				n := rapid.Uint64Range(acked, taken).Draw(t, "n")
				r.rewind(n)
				frames, acked, given = frames[n-acked:], n, n
				window, want = nil, nil
			},
			"": func(t *rapid.T) {
				if all := bytes.Join(frames, nil); !bytes.Equal(r.buf, all) {
					t.Fatalf("%d bytes are kept, want %d, or they are others", len(r.buf), len(all))
				}
				if got, want := r.unsent(), len(bytes.Join(frames[given-acked:], nil)); got != want || r.acked != acked {
					t.Fatalf("%d bytes not given, %d acknowledged; want %d, %d", got, r.acked, want, acked)
				}
				if !bytes.Equal(window, want) {
					t.Fatal("what is being written has changed")
				}
			},
		})
	})
}

// Calls that are answered one by one leave nothing to collect.
func TestRingThatEmptiesDoesNotAllocate(t *testing.T) {
	var r ring
	cd, body := codec.Default(), make([]byte, 100)
	n := uint64(0)
	if got := testing.AllocsPerRun(1000, func() {
		_ = r.push(cd, codec.Packet{Main: 1, Body: body})
		r.take()
		r.busy = false
		n++
		r.ack(n)
	}); got != 0 {
		t.Errorf("%v allocations", got)
	}
}
