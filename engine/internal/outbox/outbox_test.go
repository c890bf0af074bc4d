package outbox

import (
	"bytes"
	"encoding/binary"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"millrace/codec"
	"millrace/engine/internal/budget"
	"millrace/engine/internal/bufpool"
)

var plain, _ = codec.New(codec.Layout{}, 0)

// bench is a loop's worth of boxes, each beside the plain list of bytes that it is to be.
type model struct {
	sh    *Shared
	boxes []*peer
	n     uint32
}

type peer struct {
	Box
	want, got []byte
	corked    bool
	closed    bool
}

func newModel(boxes int) *model {
	m := &model{sh: &Shared{MaxOutbound: 1 << 20, MaxQueued: 1 << 30, MaxFrame: 1 << 16, Budget: budget.New(1<<30, nil), Share: new(atomic.Int64)}}
	m.sh.Share.Store(1 << 20)
	m.sh.Lent = bufpool.Get(2048)
	for range boxes {
		m.open()
	}
	return m
}

func (m *model) open() {
	p := &peer{}
	p.Open(m.sh)
	m.boxes = append(m.boxes, p)
}

// body is a body of n bytes that no other has.
func (m *model) body(n int) []byte {
	m.n++
	b := bytes.Repeat([]byte{byte(m.n)}, max(n, 4))
	binary.BigEndian.PutUint32(b, m.n)
	return b
}

// write lets a box write up to room bytes.
func (m *model) write(p *peer, why Look, room int) {
	_, unfinished := p.Begin(m.sh, why)
	for {
		b := p.Next(m.sh)
		if len(b) == 0 {
			if unfinished && p.Again(m.sh) {
				unfinished = false
				continue
			}
			break
		}
		n := min(len(b), room)
		p.got = append(p.got, b[:n]...)
		all := n == len(b)
		room -= n
		p.Wrote(m.sh, n, all)
	}
}

// What comes out of a box is what went in, in its order, however it is cut by writes:
// own frames, shared ones and broadcasts. And what it holds is given back.
func TestBytesLeaveAsTheyWereSent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(3)
		size := rapid.SampledFrom([]int{0, 8, 64, 700, 4096, 60_000})
		pick := func() *peer { return rapid.SampledFrom(m.boxes).Draw(t, "box") }
		t.Repeat(map[string]func(*rapid.T){
			"send": func(t *rapid.T) {
				p := pick()
				pk := codec.Packet{Main: 1, Sub: 1, Body: m.body(size.Draw(t, "size"))}
				switch r := p.Send(m.sh, plain, pk.Handle(), pk.Seq, pk.Body, rapid.SampledFrom([]Kind{Answer, Push, System}).Draw(t, "kind")); r {
				case Staged, Wake:
					p.want = pk.Append(p.want)
				case Full:
					if p.Size() < 1<<20 {
						t.Fatalf("full at %d", p.Size())
					}
				case Closed:
					if !p.closed {
						t.Fatal("closed")
					}
				}
			},
			"broadcast": func(t *rapid.T) {
				f := codec.Packet{Main: 1, Sub: 2, Body: m.body(size.Draw(t, "size"))}.Append(nil)
				m.sh.Budget.Add(m.sh.Log.Append(f))
				for _, p := range m.boxes {
					if !p.closed {
						p.want = append(p.want, f...)
					}
				}
			},
			"group": func(t *rapid.T) {
				f := bufpool.Get(100)
				f.Share()
				f.B = codec.Packet{Main: 1, Sub: 3, Body: m.body(size.Draw(t, "size"))}.Append(f.B)
				m.sh.Budget.Add(f.Held())
				want := bytes.Clone(f.B)
				for _, p := range m.boxes {
					if r := p.Refer(m.sh, f, len(f.B), new(bool)); r != Closed {
						p.want = append(p.want, want...)
					}
				}
				if held, last := f.Release(); last {
					m.sh.Budget.Add(-held)
				}
			},
			"cork": func(t *rapid.T) {
				p := pick()
				if rapid.Bool().Draw(t, "lend") {
					p.Lend(m.sh)
				} else {
					p.Cork()
				}
				p.corked = true
			},
			"inline": func(t *rapid.T) {
				p := pick()
				if p.corked {
					p.corked = false
					m.write(p, LookInline, rapid.IntRange(0, 100_000).Draw(t, "room"))
					if m.sh.Lent == nil {
						m.sh.Lent = bufpool.Get(2048)
					}
				}
			},
			"uncork": func(t *rapid.T) {
				p := pick()
				p.Uncork(rapid.Bool().Draw(t, "still"))
			},
			"write": func(t *rapid.T) {
				p := pick()
				if rapid.Bool().Draw(t, "writable") {
					p.Writable()
				}
				m.write(p, rapid.SampledFrom([]Look{LookAsked, LookWalk}).Draw(t, "why"), rapid.SampledFrom([]int{0, 1, 7, 100, 5000, 300_000, 2 << 20}).Draw(t, "room"))
			},
			"last": func(t *rapid.T) {
				p := pick()
				if !p.closed && rapid.IntRange(0, 9).Draw(t, "really") == 0 {
					pk := codec.Packet{Sub: 3, Body: m.body(10)}
					p.SendLast(m.sh, plain, pk)
					p.want, p.closed = pk.Append(p.want), true
				}
			},
			"cut": func(t *rapid.T) {
				least := m.sh.Log.End()
				for _, p := range m.boxes {
					if !p.closed || !p.Done() {
						least = min(least, p.Pos())
					}
				}
				m.sh.Budget.Add(-m.sh.Log.Cut(least))
			},
			"": func(t *rapid.T) {
				for i, p := range m.boxes {
					if !bytes.HasPrefix(p.want, p.got) {
						t.Fatalf("box %d wrote what was not sent", i)
					}
					if left := len(p.want) - len(p.got); p.Blocked() && p.Size() != left {
						p.Lagging(m.sh)
						if p.Size() != left {
							t.Fatalf("box %d says that %d bytes are unsent, want %d", i, p.Size(), left)
						}
					}
				}
			},
		})
		for i, p := range m.boxes {
			if rapid.Bool().Draw(t, "drop") {
				p.Drop(m.sh)
				continue
			}
			p.Uncork(false)
			p.Writable()
			m.write(p, LookAsked, 1<<30)
			if !bytes.Equal(p.got, p.want) {
				t.Fatalf("box %d wrote %d bytes, want %d", i, len(p.got), len(p.want))
			}
			if p.closed && !p.Done() {
				t.Fatalf("box %d is closed, has written all and is not done", i)
			}
			p.Drop(m.sh)
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
