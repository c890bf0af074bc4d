package replay

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"millrace/engine/internal/budget"
)

// text is a frame: two bytes of length, then so many bytes.
func text(n, size int) []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(size))
	return append(b, bytes.Repeat([]byte{byte(n)}, size)...)
}

func sizeOf(b []byte) int { return 2 + int(binary.BigEndian.Uint16(b)) }

func newRing(b *budget.Budget) *Ring {
	r := &Ring{}
	r.Init(sizeOf, b)
	return r
}

// write takes up to n bytes of what the ring gives.
func write(r *Ring, n int) (out []byte) {
	for n > 0 {
		b, _ := r.Next()
		if len(b) == 0 {
			break
		}
		b = b[:min(n, len(b))]
		out = append(out, b...)
		r.Wrote(len(b))
		n -= len(b)
	}
	return out
}

// Whatever is appended, written in pieces, acknowledged, forgotten and begun again: each
// connection is written the frames from where its peer has come to, in order and whole, and
// everything that was counted is given back.
func TestRingAgainstAModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bud := budget.New(1<<30, nil)
		r, recent := newRing(bud), &Recent{}
		var all [][]byte // every frame ever
		first, most, from := 0, 0, 0
		var wire []byte           // what the present connection was written, from frame from on
		under, might := 0, 0      // what a write has left ends there: of this connection, of those before
		acked, parked := 0, false // before it was written whole
		kept := func() (n int) {
			for _, f := range all[first:] {
				n += len(f)
			}
			return n
		}
		whole := func() int { // frames that the connection was written whole
			n, left := from, len(wire)
			for n < len(all) && left >= len(all[n]) {
				left -= len(all[n])
				n++
			}
			return n
		}
		take := func(n int) {
			if parked {
				return
			}
			wire = append(wire, write(r, n)...)
			want := bytes.Join(all[from:], nil)
			if len(wire) > len(want) || !bytes.Equal(wire, want[:len(wire)]) {
				t.Fatalf("a connection from %d on was written %d wrong bytes", from, len(wire))
			}
			most = max(most, whole())
			first = max(first, min(acked, whole()))
			under = from
			for left := len(wire) + r.Left(); under < len(all) && left >= len(all[under]); under++ {
				left -= len(all[under])
			}
		}
		leave := func() {
			might = max(might, under)
			under, acked, parked = 0, 0, true
		}
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			switch rapid.IntRange(0, 7).Draw(t, "step") {
			case 0, 1:
				f := text(len(all), rapid.SampledFrom([]int{0, 1, 30, 600, 5000, 40000}).Draw(t, "size"))
				if rapid.Bool().Draw(t, "in part") {
					cut := rapid.IntRange(0, len(f)-1).Draw(t, "cut")
					r.Begin(f[:cut], len(f))
					if rapid.Bool().Draw(t, "written between") {
						take(1 << 20)
					}
					if n := r.Continue(append(f[cut:len(f):len(f)], 'x')); n != len(f)-cut {
						t.Fatalf("Continue took %d of %d", n, len(f)-cut)
					}
				} else {
					r.Append(f, recent)
				}
				all = append(all, f)
			case 2, 3:
				take(rapid.IntRange(1, 9000).Draw(t, "written"))
			case 4:
				if parked {
					continue
				}
				n := rapid.IntRange(0, len(all)+1).Draw(t, "acknowledged")
				if ok := r.Ack(uint64(n)); ok != (n <= max(whole(), under)) {
					t.Fatalf("Ack(%d) = %v, and %d were written, %d begun", n, ok, whole(), under)
				} else if ok {
					first = max(first, min(n, whole()))
					acked = max(acked, n)
				}
			case 5:
				r.Park()
				leave()
			case 6:
				n := rapid.IntRange(0, len(all)+1).Draw(t, "received")
				if ok := r.Rewind(uint64(n)); ok != (n >= first && n <= max(most, might, under)) {
					t.Fatalf("Rewind(%d) = %v, with %d to %d, %d begun", n, ok, first, most, max(might, under))
				} else if ok {
					leave()
					first, most, from, wire, parked = n, max(most, n), n, nil, false
				}
			case 7:
				limit := rapid.IntRange(0, 50000).Draw(t, "kept at most")
				r.Forget(limit)
				may := whole()
				if parked {
					may = most
				}
				for first < may && kept() > limit {
					first++
				}
			}
			if r.First() != uint64(first) || r.Bytes() != kept() {
				t.Fatalf("keeps %d bytes from frame %d on, want %d from %d", r.Bytes(), r.First(), kept(), first)
			}
			if !parked {
				if got, want := r.Unsent(), len(bytes.Join(all[from:], nil))-len(wire); got != want {
					t.Fatalf("%d bytes unsent, want %d", got, want)
				}
			}
		}
		take(1 << 30)
		if !parked && whole() != len(all) {
			t.Fatalf("%d frames were written of %d", whole(), len(all))
		}
		r.Close()
		recent.Tick(bud)
		recent.Tick(bud)
		if n := bud.Used(); n != 0 {
			t.Fatalf("%d bytes still counted", n)
		}
	})
}

// A peer may have, and tell of, what a write brings it before who writes has been told, and what a
// write has left: a connection that encrypts sends that before it is given it again.
func TestPeersKnowOfAWriteBeforeItReturns(t *testing.T) {
	for name, tell := range map[string]func(r *Ring) bool{
		"acknowledged":             func(r *Ring) bool { return r.Ack(3) && r.First() < 3 },
		"acknowledged bit by bit":  func(r *Ring) bool { return r.Ack(3) && r.Ack(1) },
		"on the next connection":   func(r *Ring) bool { return r.Rewind(3) },
		"when this one has ended":  func(r *Ring) bool { r.Park(); return r.Rewind(3) },
		"later, on the one behind": func(r *Ring) bool { return r.Rewind(1) && r.Rewind(3) },
	} {
		for _, wrote := range []int{-1, 0, 5, 11, 13} { // of 36 bytes; -1: not told yet
			t.Run(fmt.Sprint(name, "/", wrote), func(t *testing.T) {
				bud := budget.New(1<<30, nil)
				r := newRing(bud)
				for n := range 3 {
					r.Append(text(n, 10), nil)
				}
				b, _ := r.Next()
				r.Append(text(3, 10), nil)
				if wrote >= 0 {
					r.Wrote(wrote)
				}
				if r.Ack(4) || r.Rewind(4) {
					t.Fatal("a frame is known that was not under way")
				}
				if !tell(r) {
					t.Fatal("what the write brought is not known")
				}
				if r.First() < 3 { // the same connection
					if wrote >= 0 {
						left := b[wrote:]
						if b, _ = r.Next(); !bytes.Equal(b, left) {
							t.Fatalf("%d bytes are left to write, want %d", len(b), len(left))
						}
					}
					r.Wrote(len(b))
				}
				if r.First() != 3 {
					t.Fatalf("frames from %d on are kept, want 3", r.First())
				}
				if got := write(r, 100); !bytes.Equal(got, text(3, 10)) {
					t.Fatalf("then %d bytes are written", len(got))
				}
				if !r.Ack(4) || r.Bytes() != 0 {
					t.Fatalf("%d bytes are kept", r.Bytes())
				}
				r.Close()
				if n := bud.Used(); n != 0 {
					t.Fatalf("%d bytes still counted", n)
				}
			})
		}
	}
}

// A large frame that many rings are given is held once; small ones cost no more than their
// bytes and a half.
func TestRingsShareLargeFrames(t *testing.T) {
	bud := budget.New(1<<30, nil)
	recent := &Recent{}
	rings := make([]*Ring, 1000)
	for i := range rings {
		rings[i] = newRing(bud)
	}
	for n := range 10 { // more than a Recent holds
		f := text(n, 10_000)
		for _, r := range rings {
			r.Append(f, recent)
		}
	}
	if got, most := bud.Used(), 10*3*10_000+1000*10*PieceCost; got > most {
		t.Errorf("1,000 rings of 10 frames of 10,000 bytes count %d bytes, want at most %d", got, most)
	}
	for _, r := range rings {
		if got := len(write(r, 1<<20)); got != 10*10_002 {
			t.Fatalf("%d bytes were written", got)
		}
		r.Close()
	}
	small := newRing(bud)
	before := bud.Used()
	for n := range 1000 {
		small.Append(text(n, 30), recent)
	}
	if got, most := bud.Used()-before, 1000*32*3/2; got > most {
		t.Errorf("32,000 bytes in small frames count %d, want at most %d", got, most)
	}
}

func TestTokensFindWhatTheyStandFor(t *testing.T) {
	var x Tokens[int]
	a, b := NewToken(), NewToken()
	if a == b {
		t.Fatal("two tokens are the same")
	}
	x.Put(a, 1)
	if v, ok := x.Find(a); !ok || v != 1 {
		t.Errorf("Find = %d, %v", v, ok)
	}
	near := a
	near[15] ^= 1
	for _, no := range []Token{b, near, {}} {
		if _, ok := x.Find(no); ok {
			t.Errorf("a token that stands for nothing was found")
		}
	}
	x.Delete(a)
	if _, ok := x.Find(a); ok || x.Len() != 0 {
		t.Error("a deleted token was found")
	}
}

func BenchmarkRing(b *testing.B) {
	for _, size := range []int{64, 4096} {
		b.Run(fmt.Sprint("body=", size), func(b *testing.B) {
			r, recent := newRing(budget.New(1<<30, nil)), &Recent{}
			f := text(1, size)
			n := uint64(0)
			b.ReportAllocs()
			for b.Loop() {
				r.Append(f, recent)
				p, _ := r.Next()
				r.Wrote(len(p))
				if n++; n%64 == 0 {
					r.Ack(n)
				}
			}
		})
	}
}
