package services_test

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/codec"
	"millrace/engine"
	"millrace/services"
	"millrace/timerwheel"
)

// entry is one thing that has run in a room.
type entry struct {
	life uint64
	what byte // n: New, m: message, t: tick, q: what came back, i: OnIdle, c: OnClose, l: OnLeave
	from int  // m: the sender; q: the one who asked
	seq  int  // of that sender
}

// place is what is recorded of a key over all its rooms. Nothing guards it: if two functions
// of its rooms run at once the race detector says so, and busy.
type place struct {
	busy    atomic.Int32
	history []entry
}

func (p *place) run(t *testing.T, e entry) {
	if p.busy.Add(1) != 1 {
		t.Errorf("two functions of one key at once, one of them %c in room %d", e.what, e.life)
	}
	p.history = append(p.history, e)
	p.busy.Add(-1)
}

// check looks at a whole history: lives come one after the other, each from New to OnClose,
// and hold what they should.
func (p *place) check(t *testing.T, key string, senders int) (ran [][]int) {
	ran = make([][]int, senders)
	life, open := uint64(0), false
	for i, e := range p.history {
		switch {
		case e.what == 'n':
			if open || e.life <= life {
				t.Errorf("%s, %d: room %d begins, %d is open: %v", key, i, e.life, life, open)
			}
			life, open = e.life, true
		case !open || e.life != life:
			t.Errorf("%s, %d: %c of room %d runs; the last is %d, open: %v", key, i, e.what, e.life, life, open)
		case e.what == 'c':
			open = false
		case e.what == 'm':
			ran[e.from] = append(ran[e.from], e.seq)
		}
	}
	if open {
		t.Errorf("%s: room %d has no end", key, life)
	}
	return ran
}

// Sessions, timers, queries, closes and idleness race for a few keys. Of each key's recorded
// history: never two things at once, never two rooms, nothing of one room in another, every
// message that was accepted ran once, and those of a session in its order.
func TestRoomHistories(t *testing.T) {
	const sessions, keys = 8, 3
	each := 400
	if *long {
		each = 40_000
	}
	var places [keys]place
	at := func(r *room) *place { return &places[r.Key()[0]-'a'] }
	var rs *rooms
	var idles atomic.Int64
	var mu sync.Mutex
	var accepted [keys][sessions][]int // guarded by mu
	r := serve(t, func(cc *services.ControllerConfig, ec *engine.Config) {
		ec.Dispatch = engine.Ordered
	}, func(c *services.Controller) {
		must(t, c.Raw(hSum, func(s *engine.Session, p codec.Packet) error {
			// Body: sender, key, number, what it does beside.
			from, k, seq, does := int(p.Body[0]), int(p.Body[1]), int(p.Body[2])<<8|int(p.Body[3]), p.Body[4]
			err := rs.Post(string(rune('a'+k)), func(r *room) {
				at(r).run(t, entry{r.Life(), 'm', from, seq})
				switch does % 8 {
				case 0: // a query: on another goroutine, and back
					asked := r.Life()
					go services.Deliver(r, func() {
						if r.Life() != asked {
							t.Error("an answer reached another room")
						}
						at(r).run(t, entry{r.Life(), 'q', from, seq})
					}, nil)
				case 1:
					err := r.SetTimer(timerwheel.TimerID(from), time.Millisecond, 3, func(timerwheel.Firing) {
						at(r).run(t, entry{r.Life(), 't', 0, 0})
					})
					if err != nil && !errors.Is(err, net.ErrClosed) { // the room ends, behind what it has accepted
						t.Error(err)
					}
				case 2:
					if _, err := r.Join(s); err != nil && !errors.Is(err, net.ErrClosed) {
						t.Error(err)
					}
				case 3, 4:
					r.Leave(s)
				case 5:
					if seq%4 == 0 {
						_ = r.Close()
					}
				case 6:
					if seq%64 == 0 {
						time.Sleep(time.Millisecond)
					}
				}
			})
			switch {
			case err == nil:
				mu.Lock()
				accepted[k][from] = append(accepted[k][from], seq)
				mu.Unlock()
			case !errors.Is(err, engine.ErrBusy):
				t.Error(err)
			}
			return s.Reply(p, nil)
		}))
	})
	rs = open(t, config{
		Pool: r.pool, Timers: r.timers, Idle: 10 * time.Millisecond, MaxTasks: 64,
		New: func(r *room) (*[]string, error) {
			at(r).run(t, entry{r.Life(), 'n', 0, 0})
			return nil, nil
		},
		OnIdle: func(r *room) bool {
			idles.Add(1)
			at(r).run(t, entry{r.Life(), 'i', 0, 0})
			return r.Life()%3 == 0
		},
		OnClose: func(r *room, _ engine.Reason) {
			for range r.Life() % 4 {
				time.Sleep(time.Millisecond / 4)
			}
			at(r).run(t, entry{r.Life(), 'c', 0, 0})
		},
		OnLeave: func(r *room, _ *engine.Session) { at(r).run(t, entry{r.Life(), 'l', 0, 0}) },
	})
	var wg sync.WaitGroup
	for from := range sessions {
		wg.Go(func() {
			var c *wire
			for seq := range each {
				if c == nil || seq%100 == 0 { // another session goes on
					if c != nil {
						_ = c.Close()
					}
					c = r.wire()
				}
				body := []byte{byte(from), byte(seq * (from + 1) % keys), byte(seq >> 8), byte(seq), byte(seq + seq>>3 + from)}
				c.send(hSum, string(body))
				if got := c.next(); got != "4/3 " {
					t.Errorf("got %q", got)
					return
				}
				if seq%50 == 49 {
					time.Sleep(15 * time.Millisecond) // the rooms may be idle
				}
			}
			_ = c.Close()
		})
	}
	wg.Wait()
	eventually(t, "the sessions to end", func() bool { return r.srv.Stats().Conns == 0 })
	for k := range keys { // they may have been busy all the time
		must(t, rs.Post(string(rune('a'+k)), func(*room) {}))
	}
	eventually(t, "a room to be idle", func() bool { return idles.Load() > 0 })
	must(t, rs.Stop(limited(t)))
	count := map[byte]int{}
	for k := range places {
		key := fmt.Sprintf("key %c", 'a'+k)
		ran := places[k].check(t, key, sessions)
		for from := range sessions {
			if fmt.Sprint(ran[from]) != fmt.Sprint(accepted[k][from]) {
				t.Errorf("%s ran %v of session %d, accepted were %v", key, ran[from], from, accepted[k][from])
			}
		}
		for _, e := range places[k].history {
			count[e.what]++
		}
	}
	st := rs.Stats()
	t.Logf("%d rooms, lived on %d times, ended %v; news %d, messages %d, ticks %d, answers %d, idle %d, left %d",
		st.Made, st.LivedOn, st.Ended, count['n'], count['m'], count['t'], count['q'], count['i'], count['l'])
	if st.Lost != 0 || st.Rooms != 0 || st.Ending != 0 || count['n'] < 10 || count['t'] == 0 || count['q'] == 0 || count['i'] == 0 {
		t.Errorf("too little has happened: %+v", st)
	}
}

// Members come and go over real sockets: by themselves, by close and by FIN. They hear what is
// sent while they are in, keep the room alive, and are bounded in number.
func TestMembersLeaveWhenTheirSessionsEnd(t *testing.T) {
	var rs *rooms
	r := serve(t, nil, func(c *services.Controller) {
		must(t, c.Raw(hSum, func(s *engine.Session, p codec.Packet) error {
			does := string(p.Body)
			must(t, rs.Post("tea", func(r *room) {
				var n int
				var err error
				switch does {
				case "join":
					n, err = r.Join(s)
				case "leave":
					if !r.Leave(s) || r.Leave(s) {
						err = errors.New("left never, or twice")
					}
					n = r.Len()
				case "send":
					n, err = r.Send(4, 6, []byte("to all"))
				case "walk":
					for m := range r.Members() {
						if !r.Has(m) {
							err = errors.New("no member")
						}
						n++
					}
				}
				text := fmt.Sprint(n)
				if err != nil {
					text = err.Error()
				}
				_ = s.Reply(p, []byte(text))
			}))
			return nil
		}))
	})
	left := make(chan *room, 10)
	rs = open(t, config{Pool: r.pool, Timers: r.timers, MaxMembers: 3, Name: "rooms", Idle: 40 * time.Millisecond,
		OnLeave: func(r *room, s *engine.Session) {
			if r.Has(s) || s.Server().Group("rooms/tea").Len() != r.Len() {
				t.Error("it has left, and is a member")
			}
			left <- r
		},
		OnClose: func(r *room, _ engine.Reason) { _, _ = r.Send(4, 6, []byte("goodbye")) },
	})
	ask := func(w *wire, does, want string) {
		t.Helper()
		w.send(hSum, does)
		w.want("4/3 " + want)
	}
	var ws []*wire
	for i := range 3 {
		w := r.wire()
		ask(w, "join", fmt.Sprint(i+1))
		ask(w, "join", fmt.Sprint(i+1)) // twice is once
		ws = append(ws, w)
	}
	life := rs.Find("tea").Life()
	other := r.wire()
	ask(other, "join", "services: too many members in the room: 3")
	ask(other, "send", "3")
	for _, w := range ws {
		w.want("4/6 to all")
	}
	ask(ws[0], "leave", "2")
	ask(other, "walk", "2")
	time.Sleep(100 * time.Millisecond) // longer than idle: the members keep it
	_ = ws[1].Close()
	if got := receive(t, left); got.Life() != life {
		t.Errorf("room %d was closed as idle with members in it", life)
	}
	ask(other, "send", "1")
	ws[2].want("4/6 to all")
	must(t, ws[2].Conn.(*net.TCPConn).CloseWrite())
	receive(t, left)
	eventually(t, "the end", func() bool { return rs.Len() == 0 })

	ask(other, "join", "1")
	rs.Close("tea")
	other.want("4/6 goodbye") // it still hears that
	eventually(t, "the end", func() bool { return rs.Len() == 0 })
	if n := r.srv.Group("rooms/tea").Len(); n != 0 || len(left) != 0 {
		t.Errorf("%d are in the group of a room that has ended; %d told more", n, len(left))
	}
	ask(ws[0], "send", "0")
	ask(ws[0], "join", "1")
	two := serve(t, nil, func(*services.Controller) {})
	met := make(chan *engine.Session, 1)
	two.c.OnAccept(func(s *engine.Session) { met <- s })
	two.wire()
	stranger := receive(t, met)
	posted(t, rs, "tea", func(r *room) {
		if _, err := r.Join(stranger); !errors.Is(err, services.ErrOtherServer) {
			t.Errorf("a session of another server: %v", err)
		}
	})
}
