package door

import (
	"bytes"
	"compress/flate"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
)

// The first offer that can be met is taken, and one that can't is declined as a whole.
func TestOffersOfCompression(t *testing.T) {
	const no = "; server_no_context_takeover; client_no_context_takeover"
	for _, c := range []struct {
		offers []string
		want   string // "": none is taken
	}{
		{nil, ""},
		{[]string{""}, ""},
		{[]string{"permessage-deflate"}, no},
		{[]string{"PERMESSAGE-DEFLATE ; Client_Max_Window_Bits"}, no},
		{[]string{"permessage-deflate; server_no_context_takeover; client_no_context_takeover"}, no},
		{[]string{"permessage-deflate; client_max_window_bits=10; server_max_window_bits=12"}, no + "; server_max_window_bits=12"},
		{[]string{`permessage-deflate; server_max_window_bits="8"`}, no + "; server_max_window_bits=8"},
		{[]string{"permessage-deflate; server_max_window_bits=15"}, no + "; server_max_window_bits=15"},
		{[]string{"permessage-deflate; server_max_window_bits=7"}, ""},
		{[]string{"permessage-deflate; server_max_window_bits=16"}, ""},
		{[]string{"permessage-deflate; server_max_window_bits=010"}, ""},
		{[]string{"permessage-deflate; server_max_window_bits=+9"}, ""},
		{[]string{"permessage-deflate; server_max_window_bits"}, ""},
		{[]string{"permessage-deflate; client_max_window_bits=16"}, ""},
		{[]string{"permessage-deflate; client_max_window_bits="}, ""},
		{[]string{"permessage-deflate; server_no_context_takeover=true"}, ""},
		{[]string{"permessage-deflate; client_no_context_takeover; client_no_context_takeover"}, ""},
		{[]string{"permessage-deflate; unknown"}, ""},
		{[]string{"permessage-deflate;"}, ""},
		{[]string{"x-webkit-deflate-frame, permessage-deflate; unknown=1, permessage-deflate; server_max_window_bits=9"}, no + "; server_max_window_bits=9"},
		{[]string{"permessage-deflate; unknown", "permessage-deflate"}, no},
		{[]string{`other; x="a, permessage-deflate; b"`}, ""},
		{[]string{`other; x="\", permessage-deflate`}, ""},
	} {
		got := ""
		if terms := agree(http.Header{"Sec-Websocket-Extensions": c.offers}); terms.on {
			got = strings.TrimPrefix(terms.header(), deflateName)
		}
		if got != c.want {
			t.Errorf("%q: got %q, want %q", c.offers, got, c.want)
		}
	}
}

// pack is what a client makes of a message, by compress/flate at a level; final: with a
// last block of its own.
func pack(t testing.TB, p []byte, level int, final bool) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, level)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(p)
	if final {
		w.Close()
		return append(b.Bytes(), 0) // RFC 7692, section 7.2.3.4
	}
	w.Flush()
	return bytes.TrimSuffix(b.Bytes(), deflateTail)
}

// unpack feeds an inflater with pieces that end at cuts.
func unpack(p []byte, cuts ...int) (out []byte, err error) {
	x := newInflater()
	for i, from := 0, 0; i <= len(cuts); i++ {
		to := len(p)
		if i < len(cuts) {
			to = cuts[i]
		}
		x.b, x.over = bytes.Clone(p[from:to]), i == len(cuts)
		for {
			n, err := x.next()
			out = append(out, x.buf[:n]...)
			if err == errMore {
				break
			}
			if err != nil {
				x.end(err == io.EOF)
				return out, err
			}
		}
		clear(x.b)
		from = to
	}
	return out, fmt.Errorf("no end")
}

// A message inflates to the same however it is cut, and to an error when it is cut short
// or continued.
func TestMessagesInflateAtEverySplit(t *testing.T) {
	noise := make([]byte, 300)
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	for name, plain := range map[string][]byte{
		"empty": nil, "short": []byte("Hello"), "text": []byte(strings.Repeat("the quick brown fox ", 20)), "noise": noise,
	} {
		for level := flate.HuffmanOnly; level <= flate.BestCompression; level++ {
			for _, final := range []bool{false, true} {
				p := pack(t, plain, level, final)
				for cut := 0; cut <= len(p); cut++ {
					if got, err := unpack(p, cut); err != io.EOF || !bytes.Equal(got, plain) {
						t.Fatalf("%s, level %d, final %v, cut at %d: got %d bytes, %v, want %d", name, level, final, cut, len(got), err, len(plain))
					}
				}
				var all []int
				for i := range p {
					all = append(all, i)
				}
				if got, err := unpack(p, all...); err != io.EOF || !bytes.Equal(got, plain) {
					t.Fatalf("%s, level %d, byte by byte: got %d bytes, %v", name, level, len(got), err)
				}
			}
		}
	}
	long := pack(t, bytes.Repeat([]byte("0123456789abcdef"), 1<<16), flate.BestSpeed, false)
	if got, err := unpack(long, 10, 500); err != io.EOF || len(got) != 1<<20 {
		t.Errorf("a long message: %d bytes, %v", len(got), err)
	}
	for name, p := range map[string][]byte{
		"reserved block": {7}, "cut in the middle": long[:len(long)/2], "bad distance": {0x4a, 0x04, 0x12, 0, 0},
		"behind the last block": append(pack(t, []byte("Hello"), 1, true), 1, 2, 3),
	} {
		if got, err := unpack(p); err == io.EOF {
			t.Errorf("%s inflates to %q", name, got)
		}
		if len(p) > 1 {
			if got, err := unpack(p, 1, len(p)-1); err == io.EOF {
				t.Errorf("%s inflates to %q, in pieces", name, got)
			}
		}
	}
}

// What the server compresses a peer inflates who has no more than the window that was
// agreed on, and what others get again is the same.
func TestCompressedWithinTheWindow(t *testing.T) {
	var d deflater
	p := []byte(strings.Repeat("a message that is longer than the smallest window ", 600))
	for bits := 8; bits <= 15; bits++ {
		packed, shared := d.message(p, 1<<bits)
		if shared {
			t.Errorf("%d bits: the message of another window is sent", bits)
		}
		want := bytes.Clone(packed)
		if again, shared := d.message(bytes.Clone(p), 1<<bits); !shared || !bytes.Equal(again, want) {
			t.Errorf("%d bits: compressed twice", bits)
		}
		if got, err := unpack(want); err != io.EOF || !bytes.Equal(got, p) {
			t.Fatalf("%d bits: %d bytes, %v", bits, len(got), err)
		}
		if far := farthest(t, want); far > 1<<bits {
			t.Errorf("%d bits: a distance of %d", bits, far)
		}
	}
	noise := make([]byte, 1000)
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	for range 2 {
		if packed, _ := d.message(noise, 1<<15); packed != nil {
			t.Errorf("noise of %d bytes becomes %d", len(noise), len(packed))
		}
	}
}

// farthest finds the smallest dictionary with which every suffix of the stream's blocks
// still inflates, by zeroing what a peer with a small window would have forgotten.
func farthest(t *testing.T, packed []byte) int {
	t.Helper()
	// Each piece was compressed by itself and ends in an empty stored block: its length is
	// a bound of its distances.
	most, from := 0, 0
	stream := append(bytes.Clone(packed), deflateTail...)
	for i := 0; i+4 <= len(stream); i++ {
		if !bytes.Equal(stream[i:i+4], deflateTail) {
			continue
		}
		r := flate.NewReader(bytes.NewReader(append(bytes.Clone(stream[from:i+4]), 1, 0, 0, 0xff, 0xff)))
		b, err := io.ReadAll(r)
		if err != nil {
			continue // those four bytes were data
		}
		most, from = max(most, len(b)), i+4
	}
	if from != len(stream) {
		t.Fatalf("%d bytes behind the last piece", len(stream)-from)
	}
	return most
}

// However a compressed message is cut it inflates to what compress/flate makes of it, and
// what that refuses is refused.
func FuzzInflate(f *testing.F) {
	f.Add(pack(f, []byte("Hello Hello Hello Hello"), 6, false), 3)
	f.Add(pack(f, []byte("Hello"), 1, true), 5)
	f.Add([]byte{0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00}, 2)
	f.Fuzz(func(t *testing.T, p []byte, cut int) {
		whole, err := unpack(p)
		if cut >= 0 && cut <= len(p) {
			cutOut, cutErr := unpack(p, cut)
			if (err == io.EOF) != (cutErr == io.EOF) || !bytes.Equal(whole, cutOut) {
				t.Fatalf("whole %d bytes, %v; cut at %d %d bytes, %v", len(whole), err, cut, len(cutOut), cutErr)
			}
		}
		r := bytes.NewReader(append(bytes.Clone(p), inflateEnd...))
		want, refErr := io.ReadAll(flate.NewReader(r))
		if refErr == nil && r.Len() == 0 && (err != io.EOF || !bytes.Equal(whole, want)) {
			t.Fatalf("got %d bytes, %v, compress/flate %d", len(whole), err, len(want))
		}
		if refErr != nil && err == io.EOF {
			t.Fatalf("got %d bytes, compress/flate %v", len(whole), refErr)
		}
	})
}
