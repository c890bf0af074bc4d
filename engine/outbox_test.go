package engine

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"

	"millrace/codec"
	"millrace/engine/internal/netio"
)

// runPool starts a pool for the test.
func runPool(t testing.TB, cfg PoolConfig) *Pool {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = quiet
	}
	p, err := NewPool(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := p.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	return p
}

// peer is the model of one session: what it must get, in order.
type peer struct {
	s       *Session
	w       *fakeWire
	want    []byte
	member  bool
	closing bool
	gone    bool
}

// outboxModel drives one loop from one goroutine with everything that can be sent, onto
// wires that take random amounts.
type outboxModel struct {
	d     *desk
	g     *Group
	peers []*peer
	n     uint32
	act   func(*Session) // what the next inline callback does
}

func (m *outboxModel) live(t *rapid.T) *peer {
	var up []*peer
	for _, p := range m.peers {
		if !p.closing && !p.gone {
			up = append(up, p)
		}
	}
	if len(up) == 0 {
		t.Skip("nobody there")
	}
	return rapid.SampledFrom(up).Draw(t, "peer")
}

// body is a fresh one of a random size.
func (m *outboxModel) body(t *rapid.T) []byte {
	m.n++
	size := rapid.SampledFrom([]int{4, 5, 60, 700, 5000, 70_000}).Draw(t, "size")
	return append(binary.BigEndian.AppendUint32(nil, m.n), bytes.Repeat([]byte{byte(m.n)}, size-4)...)
}

func (m *outboxModel) everyone(f []byte, members bool) {
	for _, p := range m.peers {
		if !p.closing && !p.gone && (p.member || !members) {
			p.want = append(p.want, f...)
		}
	}
}

// plan draws one thing to send; the draws must not happen inside a callback.
func (m *outboxModel) plan(t *rapid.T) func(*peer) error {
	b, how := m.body(t), rapid.IntRange(0, 4).Draw(t, "how")
	return func(p *peer) error { return m.do(p, b, how) }
}

func (m *outboxModel) send(t *rapid.T) {
	if err := m.plan(t)(m.live(t)); err != nil {
		t.Fatal(err)
	}
}

func (m *outboxModel) do(p *peer, b []byte, how int) error {
	f := frame(1, 1, string(b))
	var err error
	switch how {
	case 0:
		err = p.s.Send(1, 1, b)
		p.want = append(p.want, f...)
	case 1:
		err = p.s.Push(1, 1, b)
		p.want = append(p.want, f...)
	case 2:
		err = m.d.Broadcast(1, 1, b)
		m.everyone(f, false)
	case 3:
		_, err = m.g.Send(1, 1, b)
		m.everyone(f, true)
	case 4:
		_, err = m.g.Join(p.s)
		p.member = true
	}
	return err
}

func (m *outboxModel) open(t *rapid.T) {
	if len(m.peers) > 40 {
		t.Skip("enough")
	}
	p := &peer{}
	p.s, p.w = m.d.open(rapid.SampledFrom([]int{-1, 0, 100}).Draw(t, "room"))
	m.peers = append(m.peers, p)
}

func (m *outboxModel) check(t *rapid.T) {
	for i, p := range m.peers {
		if !p.gone && !bytes.HasPrefix(p.want, p.w.got) {
			t.Fatalf("peer %d got %d bytes that are not the first of the %d sent to it", i, len(p.w.got), len(p.want))
		}
		if !p.gone && p.w.finned && len(p.w.got) != len(p.want) {
			t.Fatalf("peer %d: FIN behind %d of %d bytes", i, len(p.w.got), len(p.want))
		}
	}
}

// Whatever one goroutine sends by Send, Push, Broadcast and a group reaches each session
// in that order, exactly once, and a close comes behind what was sent before it.
func TestOutboxKeepsTheOrderOfOneGoroutine(t *testing.T) {
	pool := runPool(t, PoolConfig{Workers: 2})
	check(t, func(rt *rapid.T) {
		m := &outboxModel{}
		m.d = newDesk(t, Config{Pool: pool, Dispatch: Inline, Limits: Limits{MaxOutbound: 1 << 30, MaxOutbox: 1 << 30, MemoryBudget: 1 << 30}, MaxFrame: 1 << 20,
			DrainBudget: rapid.IntRange(1, 5).Draw(rt, "budget"), Timeouts: Timeouts{Linger: time.Hour}},
			&funcs{read: func(s *Session, _ codec.Packet) { m.act(s) }})
		m.g = m.d.Group("g")
		rt.Repeat(map[string]func(*rapid.T){
			"":     m.check,
			"open": m.open,
			"send": m.send,
			"sends": func(t *rapid.T) {
				for range rapid.IntRange(2, 6).Draw(t, "n") {
					m.send(t)
				}
			},
			"inline": func(t *rapid.T) { // from a callback, corked, into the loop's own buffer
				p, ran := m.live(t), false
				var plans []func(*peer) error
				for range rapid.IntRange(1, 4).Draw(t, "n") {
					plans = append(plans, m.plan(t))
				}
				m.act = func(*Session) {
					for _, do := range plans {
						if err := do(p); err != nil {
							panic(err)
						}
					}
					ran = true
				}
				m.d.l.received(p.s, frame(1, 1, ""))
				if !ran {
					t.Fatal("not run inline")
				}
			},
			"turn": func(t *rapid.T) { m.d.turn() },
			"take": func(t *rapid.T) {
				for _, p := range m.peers {
					if p.w.room >= 0 && !p.gone {
						p.w.give(rapid.SampledFrom([]int{0, 1, 50, 3000, 200_000}).Draw(t, "room"))
					}
				}
			},
			"close": func(t *rapid.T) {
				p := m.live(t)
				p.closing = true
				p.s.Close()
			},
			"reset": func(t *rapid.T) {
				p := m.live(t)
				p.gone = true
				m.d.l.disconnected(p.s, netio.EndReset)
			},
			"break": func(t *rapid.T) {
				p := m.live(t)
				p.w.fail = errBroken
				p.gone = true // or soon
			},
		})
		for i := 0; i < 5; i++ {
			for _, p := range m.peers {
				p.w.room = -1
				if !p.gone {
					p.s.canWrite()
				}
			}
			m.d.settleAll()
		}
		for i, p := range m.peers {
			if !p.gone && !bytes.Equal(p.w.got, p.want) {
				rt.Fatalf("peer %d got %d bytes, want %d", i, len(p.w.got), len(p.want))
			}
			if p.closing && !p.w.finned {
				rt.Fatalf("peer %d: no FIN after its close", i)
			}
			if p.s.rd.life != lifeGone {
				m.d.l.disconnected(p.s, netio.EndReset)
			}
		}
		m.d.sweepNow() // which also cuts the log behind sessions that have gone
		m.d.settleAll()
		if q, b, n := m.d.l.out.Queued.Load(), unaccounted(m.d.Server), m.d.table.count(); q != 0 || b != 0 || n != 0 {
			rt.Fatalf("%d bytes queued, %d held, %d sessions at the end, want none", q, b, n)
		}
	})
}

// A connection that breaks while its chain is being written gives back all that it held.
func TestBrokenChainIsGivenBack(t *testing.T) {
	d := newDesk(t, Config{}, &funcs{})
	s, w := d.open(0)
	d.settleAll()
	for range 5 { // bufs of their own
		s.Send(1, 1, make([]byte, 60_000))
		d.settleAll()
	}
	held, unsent := d.Stats().Memory, s.Stats().Unsent
	w.fail, w.room = errBroken, 130_000
	s.canWrite()
	d.settleAll()
	st := d.Stats()
	if unsent != 5*60_008 || held < unsent || st.Memory != 0 || st.LostBytes != uint64(unsent-130_000) || st.Closes[ReasonPeerReset] != 1 {
		t.Errorf("%d held, %d unsent, then %d held, %d lost, %v", held, unsent, st.Memory, st.LostBytes, st.Closes)
	}
}

// Pushes beyond MaxOutbound close the session, whatever their size; answers never do.
func TestUnreadPushesCloseUnreadAnswersPause(t *testing.T) {
	const limit = 64 << 10
	for _, size := range []int{100, 1016, 1024, 4088, 60_000} {
		d := newDesk(t, Config{Limits: Limits{MaxOutbound: limit}}, &funcs{})
		pushed, w1 := d.open(0)
		answered, w2 := d.open(0)
		d.settleAll()
		for _, s := range []*Session{pushed, answered} {
			send := s.Send
			if s == pushed {
				send = s.Push
			}
			var err error
			for n := 0; n < 10_000 && err == nil; n++ {
				err = send(1, 1, make([]byte, size))
				d.turn()
			}
			if want := ErrBusy; s == answered && !errors.Is(err, want) {
				t.Errorf("size %d: answers from elsewhere end with %v, want %v", size, err, want)
			}
			d.settleAll()
		}
		if !w1.closed || Reason(pushed.closing.Load()) != ReasonSlowConsumer {
			t.Errorf("size %d: not closed, %v", size, Reason(pushed.closing.Load()))
		}
		if w2.closed || !w2.masked || !answered.Connected() {
			t.Errorf("size %d: answers: closed %v, paused %v", size, w2.closed, w2.masked)
		}
		w2.room = -1
		answered.canWrite()
		d.settleAll()
		if w2.masked || answered.Stats().Unsent != 0 {
			t.Errorf("size %d: not resumed", size)
		}
	}
}
