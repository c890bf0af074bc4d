package carry

import (
	"bytes"
	"errors"
	"reflect"
	"testing"
)

var (
	aState = State{Session: 1, Received: 2, First: 3, Most: 4, Accepted: 5, Frames: []byte("frames"), User: []byte("user"), Groups: []string{"", "a"}}
	aTail  = Tail{Frames: []byte("rest"), Handle: 6, Seq: 7, Users: []string{"ann"}, Streams: []Stream{{"", map[uint64]uint64{8: 9}}, {"tea", map[uint64]uint64{}}}}
)

func TestWhatIsWrittenIsRead(t *testing.T) {
	if s, err := ParseState(aState.Append(nil)); err != nil || !reflect.DeepEqual(s, aState) {
		t.Errorf("got %+v, %v", s, err)
	}
	if x, err := ParseTail(aTail.Append(nil)); err != nil || !reflect.DeepEqual(x, aTail) {
		t.Errorf("got %+v, %v", x, err)
	}
}

// Whatever is cut off, added or changed in a length: an error, and no more memory than bytes.
func TestWhatIsNoStateIsRefused(t *testing.T) {
	for name, whole := range map[string][]byte{"state": aState.Append(nil), "tail": aTail.Append(nil)} {
		parse := func(b []byte) error {
			if name == "state" {
				_, err := ParseState(b)
				return err
			}
			_, err := ParseTail(b)
			return err
		}
		for n := range whole {
			if err := parse(whole[:n]); !errors.Is(err, ErrBad) {
				t.Errorf("%s of %d bytes: %v", name, n, err)
			}
		}
		if err := parse(append(bytes.Clone(whole), 0)); !errors.Is(err, ErrBad) {
			t.Errorf("%s and a byte: %v", name, err)
		}
		other := bytes.Clone(whole)
		other[0] = 2
		if err := parse(other); !errors.Is(err, ErrBad) {
			t.Errorf("%s of another version: %v", name, err)
		}
	}
}

// A group that came twice would be locked twice where the session comes.
func TestGroupsComeOnce(t *testing.T) {
	for _, groups := range [][]string{{"a", "a"}, {"b", "a"}, {"a", "b", "a"}} {
		s := aState
		s.Groups = groups
		if _, err := ParseState(s.Append(nil)); !errors.Is(err, ErrBad) {
			t.Errorf("groups %q: %v", groups, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(aState.Append(nil))
	f.Add(aTail.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := ParseState(b); err == nil {
			if again := s.Append(nil); !bytes.Equal(again, b) {
				t.Errorf("%x is written as %x", b, again)
			}
		}
		if x, err := ParseTail(b); err == nil {
			if y, err := ParseTail(x.Append(nil)); err != nil || !reflect.DeepEqual(x, y) {
				t.Errorf("%+v is read as %+v, %v", x, y, err)
			}
		}
	})
}
