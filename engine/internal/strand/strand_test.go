package strand

import (
	"bytes"
	"encoding/binary"
	"testing"

	"pgregory.net/rapid"

	"millrace/engine/internal/budget"
	"millrace/engine/internal/bufpool"
)

func open() bool { return false }

// frames are n frames of 12 bytes, numbered from *at on.
func frames(at *uint32, n int) (b []byte) {
	for range n {
		b = binary.BigEndian.AppendUint32(b, 8)
		b = append(b, 0, 1, 0, 1)
		b = binary.BigEndian.AppendUint32(b, *at)
		*at++
	}
	return b
}

// Against a list: items come out once and in order however they were put in, at most one
// runs the strand, whoever puts something on an idle one is told to schedule it, and what
// is counted is given back.
func TestStrandModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s Strand
		bud := budget.New(1<<30, nil)
		var put, got uint32 // frames and functions share one numbering
		state := Idle       // the model's
		closed := false
		var held []*bufpool.Buf
		tasks := 0
		isClosed := func() bool { return closed }
		schedule := func(t *rapid.T, told bool) {
			if want := state == Idle; told != want {
				t.Fatalf("told to schedule: %v, state %v", told, state)
			}
			if told {
				state = Queued
			}
		}
		run := func(t *rapid.T, it *bufpool.Buf, most int) {
			for ; most > 0 && it.Off < len(it.B); most-- {
				if n := binary.BigEndian.Uint32(it.B[it.Off+8:]); n != got {
					t.Fatalf("frame %d, want %d", n, got)
				}
				got++
				it.Off += 12
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				if s.State() != state {
					t.Fatalf("state %v, want %v", s.State(), state)
				}
			},
			"frames": func(t *rapid.T) {
				told, ok := s.PostFrames(frames(&put, rapid.IntRange(1, 200).Draw(t, "n")), false, 0, 0, bud)
				if !ok {
					t.Fatal("refused")
				}
				schedule(t, told)
			},
			"block": func(t *rapid.T) {
				b := bufpool.Get(12)
				b.B = append(b.B, frames(&put, 1)...)
				told, ok := s.PostBlock(b, false, 0, bud)
				if !ok {
					t.Fatal("refused")
				}
				schedule(t, told)
			},
			"submit": func(t *rapid.T) {
				n := put
				v := s.Submit(func() {
					if n != got {
						panic("a function out of order")
					}
					got++
				}, 5, isClosed, bud)
				switch {
				case closed:
					if v != Gone {
						t.Fatalf("%v of a closed one", v)
					}
				case tasks == 5:
					if v != Full {
						t.Fatalf("%v with %d functions", v, tasks)
					}
				default:
					put++
					tasks++
					if v != Taken && v != Schedule {
						t.Fatalf("%v with %d functions", v, tasks)
					}
					schedule(t, v == Schedule)
				}
			},
			"submit to a pool that may have ended": func(t *rapid.T) {
				n, ended, pushed := put, rapid.IntRange(0, 3).Draw(t, "ended") == 0, false
				push := func() bool { pushed = true; return !ended }
				v := s.SubmitTo(push, func() {
					if n != got {
						panic("a function out of order")
					}
					got++
				}, nil, 5, isClosed, bud)
				refused := closed || tasks == 5
				if want := !refused && state == Idle; pushed != want {
					t.Fatalf("scheduled: %v, state %v, closed %v", pushed, state, closed)
				}
				switch {
				case closed || !refused && pushed && ended:
					if v != Gone {
						t.Fatalf("%v, closed %v, the pool ended %v", v, closed, ended)
					}
				case refused:
					if v != Full {
						t.Fatalf("%v with %d functions", v, tasks)
					}
				default:
					put++
					tasks++
					if v != Taken || s.Tasks() != tasks {
						t.Fatalf("%v with %d functions", v, tasks)
					}
					if pushed {
						state = Queued
					}
				}
			},
			"end": func(t *rapid.T) {
				if rapid.IntRange(0, 9).Draw(t, "really") > 0 {
					t.Skip()
				}
				alone, ended := rapid.Bool().Draw(t, "alone"), rapid.Bool().Draw(t, "ended")
				pushed, want := false, !closed && !(alone && got != put)
				ok := s.End(alone, func() bool { pushed = true; return !ended }, isClosed, func() { closed = true })
				if ok != want || pushed != (ok && state == Idle) || ok && !closed {
					t.Fatalf("ended: %v, scheduled: %v, state %v", ok, pushed, state)
				}
				if pushed && !ended {
					state = Queued
				}
			},
			"unhold": func(t *rapid.T) {
				told := s.Unhold(isClosed)
				if told != (state == Parked && (got != put || closed)) {
					t.Fatalf("unhold: %v, state %v, %d of %d have run, closed %v", told, state, got, put, closed)
				}
				switch {
				case told:
					state = Queued
				case state == Parked:
					state = Idle
				}
			},
			"enter": func(t *rapid.T) {
				if ok := s.Enter(); ok != (state == Idle) {
					t.Fatalf("entered: %v, state %v", ok, state)
				} else if ok {
					state = Running
				}
			},
			"begin": func(t *rapid.T) {
				if state != Queued {
					t.Skip()
				}
				s.Begin()
				state = Running
			},
			"next": func(t *rapid.T) {
				if state != Running {
					t.Skip()
				}
				it := s.Next(bud)
				switch {
				case it == nil:
					if got != put {
						t.Fatalf("nothing waits, %d of %d have run", got, put)
					}
				case it.Tag == Func:
					tasks--
					it.Fn()
					it.Free()
				default:
					run(t, it, rapid.IntRange(1, 400).Draw(t, "most"))
					if it.Off < len(it.B) {
						s.Return(it)
					} else if rapid.Bool().Draw(t, "keep") {
						held = append(held, it) // still counted
					} else {
						s.Free(it, 0, bud)
					}
				}
			},
			"rest": func(t *rapid.T) {
				if state != Running {
					t.Skip()
				}
				if ok := s.Rest(isClosed); ok != (got == put && !closed) {
					t.Fatalf("rests: %v; %d of %d have run, closed %v", ok, got, put, closed)
				} else if ok {
					state = Idle
				}
			},
			"leave": func(t *rapid.T) {
				if state != Running {
					t.Skip()
				}
				force := rapid.Bool().Draw(t, "force")
				told := s.Leave(force)
				if told != (force || got != put) {
					t.Fatalf("leave: %v; %d of %d have run", told, got, put)
				}
				if state = Idle; told {
					state = Queued
				}
			},
			"park": func(t *rapid.T) {
				if state != Running {
					t.Skip()
				}
				s.Park()
				state = Parked
			},
			"unpark": func(t *rapid.T) {
				if ok := s.Unpark(); ok != (state == Parked) {
					t.Fatalf("unparked: %v, state %v", ok, state)
				} else if ok {
					state = Running
				}
			},
			"wake": func(t *rapid.T) {
				told := s.Wake(isClosed)
				if told != (state == Parked || state == Idle && closed) {
					t.Fatalf("wake: %v, state %v, closed %v", told, state, closed)
				}
				if told {
					state = Queued
				}
			},
			"close": func(t *rapid.T) { closed = closed || rapid.IntRange(0, 9).Draw(t, "really") == 0 },
		})
		for _, it := range held {
			s.Free(it, 0, bud)
		}
		for it := s.Next(bud); it != nil; it = s.Next(bud) {
			if it.Tag == Func {
				it.Fn()
				it.Free()
				continue
			}
			run(t, it, len(it.B))
			s.Free(it, 0, bud)
		}
		if left := s.Finish(); left != nil || got != put {
			t.Fatalf("%v is left, %d of %d have run", left, got, put)
		}
		if n, u := s.Held(1), bud.Used(); n != 0 || u != 0 {
			t.Fatalf("%d held, %d counted at the end", n, u)
		}
		var at uint32
		if _, ok := s.PostFrames(frames(&at, 1), false, 0, 0, bud); ok || s.State() != Done || bud.Used() != 0 || s.Wake(isClosed) || s.Enter() {
			t.Fatal("something was taken after the end")
		}
	})
}

// Small reads share blocks: what waits costs little more than its bytes, however small the
// reads were.
func TestSmallReadsShareBlocks(t *testing.T) {
	for _, each := range []int{1, 2, 7, 40} {
		var s Strand
		var at uint32
		bud := budget.New(1<<30, nil)
		const posts = 100_000
		for i := range posts {
			s.PostFrames(frames(&at, each), false, 0, 0, bud)
			payload := (i + 1) * each * 12
			if held := s.Held(1 << 30); held > payload*5/2+1<<10 || i == posts-1 && held > payload*3/2+1<<10 || held != bud.Used() {
				t.Fatalf("%d frames a read: %d bytes are held for %d, %d counted", each, held, payload, bud.Used())
			}
		}
		var n uint32
		for it := s.Next(bud); it != nil; it = s.Next(bud) {
			for b := it.B; len(b) > 0; b = b[12:] {
				if got := binary.BigEndian.Uint32(b[8:]); got != n {
					t.Fatalf("frame %d, want %d", got, n)
				}
				n++
			}
			s.Free(it, 0, bud)
		}
		if n != uint32(posts*each) || s.Held(1) != 0 || bud.Used() != 0 {
			t.Fatalf("%d of %d frames; %d held, %d counted", n, posts*each, s.Held(1), bud.Used())
		}
	}
}

// Frames that came late share no block with those that came in time.
func TestLateFramesStandApart(t *testing.T) {
	var s Strand
	var at uint32
	bud := budget.New(1<<30, nil)
	for _, late := range []bool{false, false, true, true, false} {
		s.PostFrames(frames(&at, 1), late, 0, 0, bud)
	}
	var got []int
	var flags []bool
	for it := s.Next(bud); it != nil; it = s.Next(bud) {
		got, flags = append(got, len(it.B)/12), append(flags, it.Flag)
	}
	if len(got) != 3 || got[0] != 2 || got[1] != 2 || got[2] != 1 || flags[0] || !flags[1] || flags[2] {
		t.Errorf("blocks of %v frames, late %v", got, flags)
	}
}

// Who paused at a limit is told once when what waits has fallen.
func TestFreeTellsWhoPaused(t *testing.T) {
	var s Strand
	bud := budget.New(1<<30, nil)
	big := func() { s.PostFrames(make([]byte, 60_000), false, 0, 0, bud) }
	for range 4 {
		big()
	}
	one := s.Held(1<<30) / 4
	free := func() bool { return s.Free(s.Next(bud), 2*one, bud) }
	if free() { // nobody has paused
		t.Error("told, and nobody paused")
	}
	big()
	s.Held(4 * one)
	if free() {
		t.Error("told with three of two left")
	}
	if !free() {
		t.Error("not told with two left")
	}
	if free() {
		t.Error("told twice")
	}
}

// What came between the last look and the end is handed back, and Each sees what waits.
func TestFinishHandsBackWhatIsLeft(t *testing.T) {
	var s Strand
	s.Open(bufpool.Empty(Accept))
	if s.State() != Queued || s.Quiet() {
		t.Errorf("state %v", s.State())
	}
	s.Post(bufpool.Empty(Fin))
	var tags []byte
	s.Each(func(it *bufpool.Buf) bool { tags = append(tags, it.Tag); return it.Tag != Fin })
	if !bytes.Equal(tags, []byte{Accept, Fin}) {
		t.Errorf("%v wait", tags)
	}
	s.Begin()
	left := s.Finish()
	if left == nil || left.Tag != Accept || left.Next == nil || left.Next.Tag != Fin || !s.Quiet() {
		t.Errorf("%v is left", left)
	}
	if _, ok := s.Post(bufpool.Empty(Fin)); ok {
		t.Error("taken after the end")
	}
}
