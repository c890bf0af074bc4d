package outbox

import (
	"bytes"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"millrace/codec"
	"millrace/engine/internal/bufpool"
)

// reader is a box beside the list of frames that its peer is still to get.
type reader struct {
	Box
	list  []unread
	begun int // bytes written of list[0], and of those behind it that a door has shown
	sent  int // of them, written
	got   []byte
	want  []byte
	swaps uint64
}

type unread struct {
	frame []byte
	key   Key
	keyed bool
}

// GoString is what a failed test draws.
func (r *reader) GoString() string { return fmt.Sprintf("a box of %d frames", len(r.list)) }

func (r *reader) size() (n int) {
	for _, u := range r.list {
		n += len(u.frame)
	}
	return n - r.sent
}

// push is what PushKeyed promises; got: what it has done. The frame right behind what is being written may be looked at by
// then, and be replaced or not.
func (r *reader) push(key Key, frame []byte, got bool) (replaced bool) {
	at, newest := 0, -1
	for i, u := range r.list {
		if u.keyed && u.key == key && (at > r.begun || at == r.begun && (got || r.begun == r.sent)) {
			newest = i
		}
		at += len(u.frame)
	}
	if newest >= 0 {
		r.list[newest].frame = frame
		r.swaps++
		return true
	}
	r.list = append(r.list, unread{frame, key, true})
	return false
}

// wrote moves n bytes from what is to come to what should have come.
func (r *reader) wrote(n int) {
	for r.sent += n; len(r.list) > 0 && r.sent >= len(r.list[0].frame); r.list = r.list[1:] {
		r.want = append(r.want, r.list[0].frame...)
		r.sent -= len(r.list[0].frame)
		r.begun -= len(r.list[0].frame)
	}
}

// A keyed push stands where the unsent one with its key stood, and at the end where all of
// those have been begun; nothing else moves, nothing is lost, and sizes and memory are right.
func TestKeyedPushesTakeTheirPlaces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(0)
		all := []*reader{{}, {}}
		for _, r := range all {
			r.Open(m.sh)
		}
		pick := func() *reader { return rapid.SampledFrom(all).Draw(t, "box") }
		size := rapid.SampledFrom([]int{4, 8, 8, 100, 300, 3000, 20_000})
		keys := rapid.SampledFrom([]int{1, 3, 40}).Draw(t, "keys")
		keyed := func(t *rapid.T, r *reader, times int) {
			key := Key{ID: uint64(rapid.IntRange(1, keys).Draw(t, "key")), Scope: uint32(rapid.IntRange(0, 1).Draw(t, "scope"))}
			for range times {
				f := bufpool.GetSmall(1)
				f.Share()
				f.B = codec.Packet{Main: 1, Sub: 1, Body: m.body(size.Draw(t, "size"))}.Append(f.B)
				m.sh.Budget.Add(f.Held())
				frame := bytes.Clone(f.B)
				got := r.PushKeyed(m.sh, f, len(f.B), nil, false, key) == Replaced
				if want := r.push(key, frame, got); got != want {
					t.Fatalf("replaced: %v, want %v", got, want)
				}
				if held, last := f.Release(); last {
					m.sh.Budget.Add(-held)
				}
				if r.Size() > r.size() {
					t.Fatalf("the box says that %d bytes are unsent, want %d at most", r.Size(), r.size())
				}
				key.ID = key.ID%uint64(keys) + 1
			}
		}
		send := func(r *reader, size int) {
			pk := codec.Packet{Main: 1, Sub: 2, Body: m.body(size)}
			if s := r.Send(m.sh, plain, pk.Handle(), pk.Seq, pk.Body, System); s == Staged || s == Wake {
				r.list = append(r.list, unread{frame: pk.Append(nil)})
			}
		}
		write := func(t *rapid.T, r *reader, room int, shown func(most int) int) {
			meanwhile := func() { keyed(t, r, rapid.SampledFrom([]int{0, 0, 1, 10}).Draw(t, "meanwhile")) }
			_, unfinished := r.Begin(m.sh, LookAsked)
			for {
				b := r.Next(m.sh)
				if len(b) == 0 {
					if unfinished && r.Again(m.sh) {
						unfinished = false
						continue
					}
					return
				}
				r.begun = r.sent + len(b)
				meanwhile()
				n := min(len(b), room)
				room -= n
				r.got = append(r.got, b[:n]...)
				r.wrote(n)
				r.Wrote(m.sh, n, n == len(b))
				meanwhile()
				if n < len(b) {
					most := shown(len(b) - n)
					r.Loosen(most)
					r.begun = r.sent + most
				}
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"keyed": func(t *rapid.T) {
				keyed(t, pick(), rapid.SampledFrom([]int{1, 1, 50}).Draw(t, "times"))
			},
			"send": func(t *rapid.T) {
				send(pick(), size.Draw(t, "size"))
			},
			"fill": func(t *rapid.T) { // so that a push begins where a write ends
				r := pick()
				if n := keyedGather - r.size()%keyedGather - plain.Overhead(); n >= 4 {
					send(r, n)
				}
				keyed(t, r, 1)
			},
			"broadcast": func(t *rapid.T) {
				f := codec.Packet{Main: 1, Sub: 3, Body: m.body(size.Draw(t, "size"))}.Append(nil)
				m.sh.Budget.Add(m.sh.Log.Append(f))
				for _, r := range all {
					r.list = append(r.list, unread{frame: f})
				}
			},
			"write": func(t *rapid.T) {
				r := pick()
				if rapid.Bool().Draw(t, "writable") {
					r.Writable()
				}
				write(t, r, rapid.SampledFrom([]int{0, 1, 7, 100, 5000, 300_000, 2 << 20}).Draw(t, "room"), func(most int) int {
					return min(rapid.SampledFrom([]int{0, 0, 1, 50, 16 << 10}).Draw(t, "shown"), most)
				})
			},
			"inline": func(t *rapid.T) {
				r := pick()
				r.Lend(m.sh)
				pk := codec.Packet{Main: 1, Sub: 4, Body: m.body(100)}
				r.Send(m.sh, plain, pk.Handle(), pk.Seq, pk.Body, System)
				r.list = append(r.list, unread{frame: pk.Append(nil)})
				r.Uncork(false)
				r.Begin(m.sh, LookInline)
				write(t, r, 1000, func(int) int { return 0 })
				if m.sh.Lent == nil {
					m.sh.Lent = bufpool.Get(2048)
				}
			},
			"cut": func(t *rapid.T) {
				m.sh.Budget.Add(-m.sh.Log.Cut(min(all[0].Pos(), all[1].Pos())))
			},
			"": func(t *rapid.T) {
				for i, r := range all {
					if !bytes.HasPrefix(r.got, r.want) || r.Replaced() != r.swaps {
						t.Fatalf("box %d wrote something else; %d replaced, want %d", i, r.Replaced(), r.swaps)
					}
					if r.Blocked() && r.Size() != r.size() {
						r.Lagging(m.sh)
						if r.Size() != r.size() {
							t.Fatalf("box %d says that %d bytes are unsent, want %d", i, r.Size(), r.size())
						}
					}
				}
			},
		})
		for i, r := range all {
			if rapid.Bool().Draw(t, "all") {
				r.Writable()
				for len(r.list) > 0 {
					write(t, r, 1<<30, nil)
				}
				if !bytes.Equal(r.got, r.want) || len(r.list) > 0 {
					t.Fatalf("box %d wrote %d bytes, want %d and %d frames", i, len(r.got), len(r.want), len(r.list))
				}
				if k := r.mixed; k != nil && k.keys != nil && (k.keys.used > 0 || len(k.keys.slots) > leastSlots) {
					t.Fatalf("box %d has sent everything and still knows %d keys", i, k.keys.used)
				}
			}
			r.Drop(m.sh)
		}
		m.sh.Budget.Add(-m.sh.Log.Cut(m.sh.Log.End()))
		if left := m.sh.Budget.Used(); left > logKeep || left < 0 {
			t.Fatalf("%d bytes are still counted", left)
		}
		if q := m.sh.Queued.Load(); q != 0 {
			t.Fatalf("%d bytes are still queued", q)
		}
	})
}

// Numbers of keys begin again before they are too large for a slot, and none is mixed up.
func TestKeysOutliveTheirNumbers(t *testing.T) {
	m := newModel(0)
	k := &keys{seed: 1, origin: firstNumber, first: firstNumber}
	k.slots = k.few[:]
	m.sh.Budget.Add(keysSize)
	for i := range uint64(100) {
		n := firstNumber + i*(maxNumber/7)
		k.live, k.first = n-min(i, 2)*(maxNumber/7), n
		k.done = k.live
		k.put(m.sh, Key{ID: i}, n)
		for j := range i + 1 {
			at, ok := k.find(Key{ID: j})
			want := firstNumber + j*(maxNumber/7)
			if live := want >= k.live; live && (!ok || at != want) || !live && ok && at >= k.live {
				t.Fatalf("after %d, key %d has number %d, %v, want %d", i, j, at, ok, want)
			}
		}
	}
	if m.sh.Budget.Used() != k.memory() {
		t.Fatalf("%d bytes are counted, want %d", m.sh.Budget.Used(), k.memory())
	}
}

// BenchmarkPushKeyed is one keyed push to a box whose peer reads, beside a plain push and a
// shared frame, and one to a peer that does not read.
func BenchmarkPushKeyed(b *testing.B) {
	for _, how := range []string{"push", "refer", "keyed", "keyed-unsent"} {
		for _, keys := range []int{1, 1000} {
			b.Run(fmt.Sprintf("%s/keys=%d", how, keys), func(b *testing.B) {
				m := newModel(1)
				p := m.boxes[0]
				pk := codec.Packet{Main: 1, Sub: 1, Body: make([]byte, 40)}
				f := bufpool.GetSmall(64)
				f.Share()
				f.B = pk.Append(f.B)
				m.sh.Budget.Add(f.Held())
				if how == "keyed-unsent" {
					for i := range keys {
						p.PushKeyed(m.sh, f, 1, nil, false, Key{ID: uint64(i)})
					}
				}
				b.ReportAllocs()
				n := 0
				for b.Loop() {
					switch how {
					case "push":
						p.Send(m.sh, plain, pk.Handle(), pk.Seq, pk.Body, Push)
					case "refer":
						p.Refer(m.sh, f, 1, new(bool))
					default:
						p.PushKeyed(m.sh, f, 1, nil, false, Key{ID: uint64(n % keys)})
					}
					if n++; n%32 == 0 && how != "keyed-unsent" {
						p.Begin(m.sh, LookAsked)
						for w := p.Next(m.sh); len(w) > 0; w = p.Next(m.sh) {
							p.Wrote(m.sh, len(w), true)
						}
					}
				}
			})
		}
	}
}
