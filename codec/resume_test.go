package codec

import (
	"bytes"
	"slices"
	"testing"
)

const sixteen = "0123456789abcdef"

// Bodies of HELLO, WELCOME and ACK that are no such.
var (
	noHello = []string{
		"", "\x01", "\x02\x00", "\x01\x01", "\x00\x00", "\x01\x00\x00", "\x01\x00" + sixteen + "\x00\x00\x00\x00\x00\x00\x00",
		"\x02\x00" + sixteen + "\x00\x00\x00\x00\x00\x00\x00\x01", "\x01\x80" + sixteen + "\x00\x00\x00\x00\x00\x00\x00\x01",
		"\x01\x00" + sixteen + "\x00\x00\x00\x00\x00\x00\x00\x01\x00",
	}
	noWelcome = []string{
		"", "\x00", "\x02" + sixteen + "\x00\x00\x00\x00\x00\x00\x00\x01", "\x80" + sixteen + "\x00\x00\x00\x00\x00\x00\x00\x01",
		"\x00" + sixteen + "\x00\x00\x00\x00\x00\x00\x00", "\x00" + sixteen + "\x00\x00\x00\x00\x00\x00\x00\x01\x00",
	}
	noCount = []string{"", "\x00\x00\x00\x01", "\x00\x00\x00\x00\x00\x00\x01", "\x00\x00\x00\x00\x00\x00\x00\x00\x01"}
)

func TestBodiesThatAreNoResume(t *testing.T) {
	c := Default()
	for _, s := range noHello {
		if h, ok := c.ParseHello([]byte(s)); ok {
			t.Errorf("HELLO %x: got %+v", s, h)
		}
	}
	for _, s := range noWelcome {
		if w, ok := c.ParseWelcome([]byte(s)); ok {
			t.Errorf("WELCOME %x: got %+v", s, w)
		}
	}
	for _, s := range noCount {
		if n, ok := c.ParseCount([]byte(s)); ok {
			t.Errorf("ACK %x: got %d", s, n)
		}
	}
}

// The counts of HELLO, WELCOME and ACK are in the layout's byte order, as all integers are.
func TestResumeBodiesInBothByteOrders(t *testing.T) {
	little, err := New(Layout{LittleEndian: true}, 0)
	if err != nil {
		t.Fatal(err)
	}
	token := Token([]byte("0123456789abcdef"))
	for _, test := range []struct {
		name, want string
		got        []byte
	}{
		{"HELLO", "\x01\x000123456789abcdef\x00\x00\x00\x02\x00\x00\x00\x05", Default().AppendHello(nil, Hello{true, token, 1<<33 + 5})},
		{"HELLO, little", "\x01\x000123456789abcdef\x05\x00\x00\x00\x02\x00\x00\x00", little.AppendHello(nil, Hello{true, token, 1<<33 + 5})},
		{"HELLO of a new session", "\x01\x00", little.AppendHello(nil, Hello{false, token, 7})},
		{"WELCOME", "\x010123456789abcdef\x00\x00\x00\x00\x00\x00\x00\x40", Default().AppendWelcome(nil, Welcome{true, token, 64})},
		{"WELCOME, little", "\x000123456789abcdef\x40\x00\x00\x00\x00\x00\x00\x00", little.AppendWelcome(nil, Welcome{false, token, 64})},
		{"ACK", "\xff\xff\xff\xff\xff\xff\xff\xfe", Default().AppendCount(nil, 1<<64-2)},
		{"ACK, little", "\xfe\xff\xff\xff\xff\xff\xff\xff", little.AppendCount(nil, 1<<64-2)},
	} {
		if string(test.got) != test.want {
			t.Errorf("%s: got %x, want %x", test.name, test.got, test.want)
		}
	}
}

// What is read is written again as the same bytes, in either order, and the reader keeps none
// of them.
func FuzzResumeBodies(f *testing.F) {
	for _, s := range slices.Concat(noHello, noWelcome, noCount) {
		f.Add([]byte(s))
	}
	f.Add([]byte("\x01\x00"))
	f.Add([]byte("\x01\x000123456789abcdef\x00\x00\x00\x02\x00\x00\x00\x05"))
	f.Add([]byte("\x010123456789abcdef\x00\x00\x00\x02\x00\x00\x00\x05"))
	f.Add([]byte("\x00\x00\x00\x00\x00\x00\x00\x40"))
	little, err := New(Layout{LittleEndian: true}, 0)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, c := range []*Codec{Default(), little} {
			again := func(name string, ok bool, got []byte) {
				if ok && !bytes.Equal(got, b) {
					t.Errorf("%s: got %x, want %x", name, got, b)
				}
			}
			in := bytes.Clone(b)
			h, isHello := c.ParseHello(in)
			w, isWelcome := c.ParseWelcome(in)
			n, isCount := c.ParseCount(in)
			clear(in)
			again("HELLO", isHello, c.AppendHello(nil, h))
			again("WELCOME", isWelcome, c.AppendWelcome(nil, w))
			again("ACK", isCount, c.AppendCount(nil, n))
			if got := len(b) == 2 || len(b) == 26; isHello && !got || isHello && h.Resume != (len(b) == 26) {
				t.Errorf("HELLO of %d bytes: got %+v", len(b), h)
			}
			if isCount != (len(b) == 8) || isWelcome && len(b) != 25 {
				t.Errorf("%d bytes: WELCOME %v, ACK %v", len(b), isWelcome, isCount)
			}
		}
	})
}
