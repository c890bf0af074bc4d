package engine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"millrace/codec"
	"millrace/engine/internal/netio"
)

// Groups against a map of sets: join twice, leave what one is not in, close, FIN.
func TestGroupModel(t *testing.T) {
	pool := runPool(t, PoolConfig{Workers: 2})
	check(t, func(rt *rapid.T) {
		d := newDesk(t, Config{Pool: pool, Limits: Limits{MaxGroups: 3}, Timeouts: Timeouts{Linger: time.Hour}}, &funcs{})
		var all []*Session
		var wires []*fakeWire
		for range 6 {
			s, w := d.open(-1)
			all, wires = append(all, s), append(wires, w)
		}
		d.settleAll()
		want := map[string]map[int]bool{}
		names := []string{"a", "b", "c", "d", "e"}
		for _, n := range names {
			want[n] = map[int]bool{}
		}
		kept := map[string]*Group{} // a Group value stays usable for good
		for _, n := range names {
			kept[n] = d.Group(n)
		}
		gone := map[int]bool{}
		count := func(i int) (n int) {
			for _, m := range want {
				if m[i] {
					n++
				}
			}
			return n
		}
		pick := func(t *rapid.T) (int, string, *Group) {
			n := rapid.SampledFrom(names).Draw(t, "group")
			g := kept[n]
			if rapid.Bool().Draw(t, "fresh") {
				g = d.Group(n)
			}
			return rapid.IntRange(0, 5).Draw(t, "who"), n, g
		}
		rt.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				for _, n := range names {
					if got := kept[n].Len(); got != len(want[n]) {
						t.Fatalf("group %s has %d members, want %d", n, got, len(want[n]))
					}
				}
				live := 0
				for _, m := range want {
					if len(m) > 0 {
						live++
					}
				}
				if got := len(d.groups.all); got != live {
					t.Fatalf("%d groups kept, %d have members", got, live)
				}
			},
			"join": func(t *rapid.T) {
				i, n, g := pick(t)
				got, err := g.Join(all[i])
				switch {
				case gone[i]:
					if !errors.Is(err, ErrClosed) {
						t.Fatalf("join of a closed session: %v", err)
					}
				case !want[n][i] && count(i) >= 3:
					if !errors.Is(err, ErrLimit) {
						t.Fatalf("a fourth group: %v", err)
					}
				default:
					want[n][i] = true
					if err != nil || got != len(want[n]) {
						t.Fatalf("join: %d members, %v, want %d", got, err, len(want[n]))
					}
				}
			},
			"leave": func(t *rapid.T) {
				i, n, g := pick(t)
				delete(want[n], i)
				if got, err := g.Leave(all[i]); err != nil || got != len(want[n]) {
					t.Fatalf("leave: %d members, %v, want %d", got, err, len(want[n]))
				}
			},
			"send": func(t *rapid.T) {
				_, n, g := pick(t)
				before := make([]int, 6)
				for i, w := range wires {
					before[i] = len(w.got)
				}
				if got, err := g.Send(1, 1, []byte(n)); err != nil || got != len(want[n]) {
					t.Fatalf("sent to %d, %v, want %d", got, err, len(want[n]))
				}
				d.settleAll()
				for i, w := range wires {
					if got := len(w.got) > before[i]; got != want[n][i] {
						t.Fatalf("session %d got the frame: %v, member: %v", i, got, want[n][i])
					}
				}
			},
			"end": func(t *rapid.T) {
				i := rapid.IntRange(0, 5).Draw(t, "who")
				switch {
				case gone[i]:
				case rapid.Bool().Draw(t, "fin"):
					d.l.disconnected(all[i], netio.EndFIN)
				default:
					all[i].Close()
				}
				d.settleAll()
				gone[i] = true
				for _, m := range want {
					delete(m, i)
				}
			},
		})
	})
}

// While sessions come, go, join and leave, group sends reach members only, keep their
// order for each of them, and no membership is left at the end.
func TestGroupsUnderChurn(t *testing.T) {
	srv := serve(t, Config{Limits: Limits{MaxConns: 200}, Timeouts: Timeouts{Linger: 20 * time.Millisecond}}, &funcs{read: func(s *Session, p codec.Packet) {
		g := s.Server().Group(fmt.Sprint("g", p.Body[0]%3))
		switch p.Sub {
		case 5:
			g.Join(s)
		case 6:
			g.Leave(s)
		}
		s.Reply(p, p.Body)
	}})
	stop := make(chan bool)
	var senders, clients sync.WaitGroup
	for k := range 3 {
		senders.Add(1)
		go func() {
			defer senders.Done()
			g := srv.Group(fmt.Sprint("g", k))
			for n := uint64(0); ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := g.Send(1, uint16(100+k), binary.BigEndian.AppendUint64(nil, n)); err != nil && !errors.Is(err, ErrBusy) {
					t.Error(err)
				}
				time.Sleep(100 * time.Microsecond)
			}
		}()
	}
	var got atomic.Int64
	for i := range 40 {
		clients.Add(1)
		go func() {
			defer clients.Done()
			for round := range 5 {
				c := dial(t, srv)
				k := byte((i + round) % 3)
				c.send(1, 5, string(k))
				last, joined := int64(-1), false
				for n := 0; n < 30; {
					p, err := c.read()
					if err != nil {
						t.Error(err)
						return
					}
					switch {
					case p.Sub == 5:
						joined = true
					case p.Sub >= 100:
						n++
						seq := int64(binary.BigEndian.Uint64(p.Body))
						if p.Sub != uint16(100+k) || seq <= last || last >= 0 && seq != last+1 {
							t.Errorf("got %d of group %d after %d of group %d (joined %v)", seq, p.Sub-100, last, k, joined)
							return
						}
						last = seq
						got.Add(1)
					}
				}
				if round%2 == 0 {
					c.send(1, 6, string(k))
					for {
						p, err := c.read()
						if err != nil {
							t.Error(err)
							return
						}
						if p.Sub == 6 {
							break
						}
					}
					c.send(1, 1, "end")
					c.expect(1, 1, "end") // nothing of the group behind the leave
				}
				if round == 3 {
					c.Conn.(*net.TCPConn).SetLinger(0)
				}
				c.Close()
			}
		}()
	}
	clients.Wait()
	close(stop)
	senders.Wait()
	waitFor(t, "the groups to be empty", func() bool {
		srv.groups.mu.Lock()
		defer srv.groups.mu.Unlock()
		return len(srv.groups.all) == 0
	})
	if got.Load() != 40*5*30 {
		t.Errorf("%d frames arrived", got.Load())
	}
}
