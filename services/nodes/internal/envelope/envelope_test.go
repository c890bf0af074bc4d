package envelope

import (
	"bytes"
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"
)

func TestVectors(t *testing.T) {
	for _, c := range []struct {
		name string
		e    Envelope
		hex  string
	}{
		{"group", Envelope{Kind: Group, Source: 0x0102030405060708, Number: 7, Handle: 0x00010008, Key: "tea", Body: []byte("hi")},
			"01020000" + "0102030405060708" + "0000000000000007" + "0000000000000000" + "00010008" + "00000000" +
				"0000000000000000" + "0000000000000000" + strings.Repeat("00", 16) + "0003" + "746561" + "6869"},
		{"call", Envelope{Kind: Call, Hops: 8, Source: 1, Session: 2<<32 | 3, Handle: 0x00040003, Left: 2000, Expires: 5, Epoch: 6,
			Trace: [16]byte{0xff, 15: 0xee}, Body: []byte{}},
			"01090008" + "0000000000000001" + "0000000000000000" + "0000000200000003" + "00040003" + "000007d0" +
				"0000000000000005" + "0000000000000006" + "ff" + strings.Repeat("00", 14) + "ee" + "0000"},
	} {
		b, err := c.e.Append(nil)
		if got := hex.EncodeToString(b); got != c.hex || err != nil {
			t.Errorf("%s: got %s, %v, want %s", c.name, got, err, c.hex)
		}
		if e, err := Parse(b); !reflect.DeepEqual(e, c.e) || err != nil {
			t.Errorf("%s: read %+v, %v, want %+v", c.name, e, err, c.e)
		}
	}
}

func TestWhatIsNoEnvelopeIsRefused(t *testing.T) {
	good, err := Envelope{Kind: Send, Key: "key"}.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	change := func(at int, v byte) []byte {
		b := bytes.Clone(good)
		b[at] = v
		return b
	}
	for name, b := range map[string][]byte{
		"empty": nil, "short": good[:HeaderLen-1], "without its key": good[:HeaderLen+2],
		"version 0": change(0, 0), "version 2": change(0, 2), "kind 0": change(1, 0), "an unknown kind": change(1, byte(kinds)),
		"a long key": append(change(68, 0xff), make([]byte, 1<<17)...),
	} {
		if e, err := Parse(b); !errors.Is(err, ErrBad) {
			t.Errorf("%s: got %+v, %v, want ErrBad", name, e, err)
		}
	}
	if _, err := (Envelope{Kind: Send, Key: strings.Repeat("k", MaxKey+1)}).Append(nil); err == nil {
		t.Error("a key over MaxKey was written")
	}
}

func FuzzParse(f *testing.F) {
	b, _ := Envelope{Kind: Room, Flags: Take, Key: "k", Body: []byte("b")}.Append(nil)
	f.Add(b)
	f.Add(b[:HeaderLen])
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := Parse(b)
		if err != nil {
			if !errors.Is(err, ErrBad) {
				t.Fatal(err)
			}
			return
		}
		again, err := e.Append(nil)
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%x became %x, %v", b, again, err)
		}
	})
}
