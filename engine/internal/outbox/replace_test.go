package outbox

import (
	"bytes"
	"slices"
	"testing"

	"millrace/engine/internal/bufpool"
)

// pushKeyed is PushKeyed of a frame that nobody else refers to.
func (o *Box) pushKeyed(sh *Shared, key uint64, frame []byte) Result {
	f := bufpool.GetSmall(len(frame))
	f.Share()
	f.B = append(f.B, frame...)
	sh.Budget.Add(f.Held())
	defer func() {
		if held, last := f.Release(); last {
			sh.Budget.Add(-held)
		}
	}()
	return o.PushKeyed(sh, f, len(frame), nil, false, Key{ID: key})
}

// What the loop has taken, and is writing the beginning of, is counted as it is when a push
// behind that is replaced.
func TestAPushReplacedWhileItWaitsIsCounted(t *testing.T) {
	m := newModel(1)
	p := m.boxes[0]
	push := func(key, size int) Result { return p.pushKeyed(m.sh, uint64(key), make([]byte, size)) }
	const keys, size = 100, 2000
	for key := range keys {
		push(key, size)
	}
	p.Begin(m.sh, LookAsked)
	b := p.Next(m.sh)
	if r := push(keys-1, 10); r != Replaced || p.Size() != keys*size-size+10 {
		t.Errorf("%v, %d bytes are unsent, want %d", r, p.Size(), keys*size-size+10)
	}
	if r := push(0, 10); r == Replaced {
		t.Error("a push was replaced that is being written")
	}
	p.Wrote(m.sh, len(b), true)
	if want := keys*size - size + 10 - len(b) + 10; p.Size() != want {
		t.Errorf("%d bytes are unsent, want %d", p.Size(), want)
	}
	p.Drop(m.sh)
	if n := m.sh.Budget.Used(); n != 0 {
		t.Errorf("%d bytes are still counted", n)
	}
}

// A push that begins exactly where a write ended is unsent, and is replaced.
func TestAPushRightBehindAWriteIsReplaced(t *testing.T) {
	for _, test := range []struct {
		name    string
		divided bool // behind the write is a division
		written int  // of keyedGather bytes
		next    int  // what the next write begins with
	}{
		{"all", false, keyedGather, 2},
		{"all, before a division", true, keyedGather, 2},
		{"none", false, 0, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := newModel(1)
			p := m.boxes[0]
			if test.divided {
				p.LeaveLog()
			}
			p.pushKeyed(m.sh, 0, make([]byte, keyedGather))
			if test.divided {
				p.Divide(m.sh)
			}
			p.pushKeyed(m.sh, 1, []byte{1, 1, 1})
			p.Begin(m.sh, LookAsked)
			b := p.Next(m.sh)
			if len(b) != keyedGather {
				t.Fatalf("the first write has %d bytes, want %d", len(b), keyedGather)
			}
			p.Wrote(m.sh, test.written, test.written == len(b))
			if test.written < len(b) {
				p.Loosen(0)
			}
			if r := p.pushKeyed(m.sh, 1, []byte{2, 2}); r != Replaced {
				t.Errorf("result %d, want %d: the push was not replaced", r, Replaced)
			}
			if want := keyedGather - test.written + 2; p.Size() != want {
				t.Errorf("%d bytes are unsent, want %d", p.Size(), want)
			}
			p.Writable()
			p.Begin(m.sh, LookAsked)
			if b = p.Next(m.sh); len(b) == 0 || int(b[0]) != test.next {
				t.Errorf("the next write has %d bytes, want those that begin with %d", len(b), test.next)
			}
			if test.next == 2 && p.pushKeyed(m.sh, 1, []byte{3}) == Replaced {
				t.Error("a push was replaced that is being written")
			}
			p.Drop(m.sh)
			if n := m.sh.Budget.Used(); n != 0 {
				t.Errorf("%d bytes are still counted", n)
			}
		})
	}
}

// While the loop writes, another goroutine pushes: each push is either written, after the older
// ones of its key, or replaced. Every write of keyedGather bytes, and every one in front of a
// division, ends where a push begins.
func TestPushesWhileTheLoopWrites(t *testing.T) {
	t.Run("undivided", func(t *testing.T) { pushWhileWriting(t, 0) })
	t.Run("divided", func(t *testing.T) { pushWhileWriting(t, 7) })
}

// pushWhileWriting adds a division behind every so many pushes; 0: none.
func pushWhileWriting(t *testing.T, every int) {
	const keys, size, times = 20, keyedGather / 16, 200
	m := newModel(1)
	p := m.boxes[0]
	p.LeaveLog()
	pushed := make(chan struct{})
	go func() {
		defer close(pushed)
		for n := range keys * times {
			frame := bytes.Repeat([]byte{byte(n / keys)}, size)
			frame[0] = byte(n % keys)
			p.pushKeyed(m.sh, uint64(n%keys), frame)
			if every > 0 && n%every == 0 {
				p.Divide(m.sh)
			}
		}
	}()
	var versions [keys]int // written last, plus 1
	written := 0
	for done := false; !done; {
		select {
		case <-pushed:
			done = true // and what is staged now is all
		default:
		}
		p.Begin(m.sh, LookAsked)
		for b := p.Next(m.sh); len(b) > 0; b = p.Next(m.sh) {
			if len(b)%size != 0 {
				t.Fatalf("a write of %d bytes, which ends within a push", len(b))
			}
			for f := range slices.Chunk(b, size) {
				key, version := f[0], int(f[1])
				for _, v := range f[1:] { // one by one, so that there are pushes meanwhile
					if int(v) != version {
						t.Fatalf("key %d: versions %d and %d are in one push", key, version, v)
					}
				}
				if version < versions[key] {
					t.Fatalf("key %d: version %d after %d", key, version, versions[key]-1)
				}
				versions[key] = version + 1
				written++
			}
			p.Wrote(m.sh, len(b), true)
		}
	}
	for key, n := range versions {
		if n != times {
			t.Errorf("key %d: the last version is %d, want %d", key, n-1, times-1)
		}
	}
	if n := written + int(p.Replaced()); n != keys*times {
		t.Errorf("%d pushes were written and %d replaced, want %d together", written, p.Replaced(), keys*times)
	}
	p.Drop(m.sh)
	if n := m.sh.Budget.Used(); n != 0 {
		t.Errorf("%d bytes are still counted", n)
	}
}
