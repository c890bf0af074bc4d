package servicestest_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"millrace/engine"
	"millrace/engine/enginetest"
	"millrace/services"
	"millrace/services/servicestest"
	"millrace/timerwheel"
)

// Handles of the town, all of Main 4.
const (
	join  = 1 // enters the room
	say   = 2 // tells it to the room, whose members hear 5/2
	save  = 3 // is written by the database, which may take too long
	raise = 4 // adds one to a number that a lock guards
	later = 5 // has an event come to the session
	wake  = 6 // the event
	keep  = 7 // has a durable event run
	ring  = 8 // the durable event
)

type ask struct {
	N    int    `json:"n"`
	Room string `json:"room,omitempty"`
}

type told struct {
	N int `json:"n"`
}

type hall = services.Room[string, *hallState]

type hallState struct {
	ticks, words int
	last         time.Time
}

// town is a program of services, and what it has done.
type town struct {
	w     *enginetest.World
	db    *enginetest.Database
	s     *servicestest.Services
	rooms *services.Rooms[string, *hallState]

	number, raised int            // that the lock guards, and how often it was
	saved          map[int]int    // by request, how often it was written
	rung           map[string]int // durable events, how often they ran
	mu             sync.Mutex
	open           map[string]int // guarded by mu; rooms that are alive
	early          int            // timers
}

const tick = 20 * time.Millisecond

func newTown(w *enginetest.World) *town {
	x := &town{w: w, db: w.Database(), saved: map[int]int{}, rung: map[string]int{}, open: map[string]int{}}
	x.db.NotRun, x.db.Lost, x.db.To = 10, 10, 300*time.Millisecond
	rooms, err := services.NewRooms(services.RoomsConfig[string, *hallState]{
		New: x.newHall, Idle: time.Second, Name: "town", Logger: w.Logger(),
		OnLeave: func(r *hall, _ *engine.Session) { _, _ = r.Send(5, 9, nil) },
		OnClose: func(r *hall, why engine.Reason) {
			time.Sleep(w.Between(0, 3*time.Millisecond)) // as it writes what the next one reads
			if x.lives(r, -1); why == engine.ReasonIdle && r.Len() > 0 {
				w.Errorf("a room with %d members closes as idle", r.Len())
			}
		},
	})
	w.Check(err)
	x.rooms = rooms
	dispatch := [...]engine.Dispatch{engine.Ordered, engine.Adaptive, engine.Inline}[w.Pick(3)]
	x.s = servicestest.New(w, services.Config{
		Server: &engine.Config{Dispatch: dispatch, Timeouts: engine.Timeouts{FirstFrameTimeout: engine.Off}}, DB: servicestest.DB(x.db),
		Services: []services.Spec{{Name: "rooms", Service: rooms}},
	})
	c := x.s.Controller()
	w.Check(errors.Join(
		services.Register(c, services.Handle(4, join), services.Stages[ask, told]{Handle: x.join}),
		services.Register(c, services.Handle(4, say), services.Stages[ask, told]{Handle: x.say}),
		services.Register(c, services.Handle(4, save), services.Stages[ask, told]{Handle: x.save}, services.Timeout(200*time.Millisecond)),
		services.Register(c, services.Handle(4, raise), services.Stages[ask, told]{Handle: x.raise}),
		services.Register(c, services.Handle(4, later), services.Stages[ask, told]{Handle: x.later}),
		services.Register(c, services.Handle(4, wake), services.Stages[ask, told]{Handle: x.echo}, services.Internal()),
		services.Register(c, services.Handle(4, keep), services.Stages[ask, told]{Handle: x.keep}),
		services.Register(c, services.Handle(4, ring), services.Stages[ask, services.None]{Handle: x.ring}, services.Internal()),
	))
	x.s.Start()
	return x
}

func (x *town) echo(_ *services.Context, req *ask, res *told) error { res.N = req.N; return nil }

// lives counts the rooms of a key that are alive. OnClose waits in it, as others do.
func (x *town) lives(r *hall, more int) int {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.open[r.Key()] += more
	return x.open[r.Key()]
}

// newHall opens a room, which there is only one of for its key, with a clock.
func (x *town) newHall(r *hall) (*hallState, error) {
	if x.lives(r, 1) > 1 {
		x.w.Errorf("two rooms of %q at once", r.Key())
	}
	st := &hallState{last: time.Now()}
	return st, r.SetTimer(1, tick, 0, func(f timerwheel.Firing) {
		if f.Late < 0 || time.Since(st.last) < tick-f.Late {
			x.early++
		}
		st.ticks++
	})
}

func (x *town) post(ctx *services.Context, room string, fn func(r *hall)) error {
	return x.rooms.Post(room, func(r *hall) {
		r.State.words++
		fn(r)
	})
}

func (x *town) join(ctx *services.Context, req *ask, _ *told) error {
	reply, s, n := ctx.Defer(), ctx.Session(), req.N
	return x.post(ctx, req.Room, func(r *hall) {
		_, err := r.Join(s)
		reply.Done(told{n}, err)
	})
}

func (x *town) say(ctx *services.Context, req *ask, _ *told) error {
	reply, n := ctx.Defer(), req.N
	return x.post(ctx, req.Room, func(r *hall) {
		b, _ := json.Marshal(told{n})
		_, err := r.Send(5, 2, b)
		reply.Done(told{n}, err)
	})
}

func (x *town) save(ctx *services.Context, req *ask, _ *told) error {
	reply, n := ctx.Defer(), req.N
	x.db.Do(ctx.Session(), func() error {
		x.saved[n]++
		return nil
	}, func(err error) { reply.DoneHere(told{n}, err) }, nil)
	return nil
}

// raise reads a number and writes it back a while later, as only who has the lock may. The
// session's timers end with its client's FIN: then the lock is let go.
func (x *town) raise(ctx *services.Context, req *ask, _ *told) error {
	reply, s, n := ctx.Defer(), ctx.Session(), req.N
	cache, timers := ctx.Cache(), ctx.Timers()
	var held uint64
	unlock := func() {
		if ok, err := cache.Unlock(s.Context(), "number", held); !ok || err != nil {
			x.w.Errorf("unlock: %v, %v", ok, err)
		}
		held = 0
	}
	cancel, err := cache.Lock("number", services.LockOptions{TTL: time.Hour, Wait: 20 * time.Second, Owner: s, On: s}, func(token uint64, err error) {
		if err != nil {
			reply.DoneHere(nil, err)
			return
		}
		if token == 0 {
			x.w.Errorf("a lock that nobody keeps was not given")
		}
		held = token
		was := x.number
		_, err = timers.After(x.w.Between(0, 30*time.Millisecond), func(timerwheel.Firing) {
			x.number = was + 1
			x.raised++
			unlock()
			reply.DoneHere(told{n}, nil)
		})
		if err != nil {
			unlock()
			reply.DoneHere(nil, err)
		}
	})
	reply.OnEnd(func() {
		if held != 0 && !s.Connected() {
			return // the lock is its owner's, which is closing
		}
		if held != 0 {
			unlock()
		} else {
			cancel()
		}
		reply.DoneHere(nil, engine.ErrClosed)
	})
	return err
}

func (x *town) later(ctx *services.Context, req *ask, res *told) error {
	res.N = req.N
	_, err := services.After(ctx, 0.001*float64(req.N%100), services.Handle(4, wake), ask{N: req.N})
	return err
}

func (x *town) keep(ctx *services.Context, req *ask, _ *told) error {
	reply, n, key := ctx.Defer(), req.N, fmt.Sprint(req.N)
	_, err := services.After(ctx, 0.5, services.Handle(4, ring), ask{N: n}, services.Durable(key, func(_ bool, err error) { reply.DoneHere(told{n}, err) }))
	return err
}

func (x *town) ring(_ *services.Context, req *ask, _ *services.None) error {
	x.rung[fmt.Sprint(req.N)]++
	return nil
}

// peer is a client, and what it has asked for.
type peer struct {
	*enginetest.Client
	asked []ask // by handle
	subs  []uint16
}

func (p *peer) ask(sub uint16, q ask) {
	p.asked, p.subs = append(p.asked, q), append(p.subs, sub)
	b, _ := json.Marshal(q)
	p.Send(4, sub, b)
}

// answers are how many frames or ERRORs are about requests of a handle.
func (p *peer) answers(sub uint16) (n int) {
	for _, f := range p.Frames() {
		if f.Main == 4 && f.Sub == sub {
			n++
		}
		if f.Main == engine.SystemMain && f.Sub == engine.SubError && len(f.Body) >= 6 && f.Body[3] == 4 && uint16(f.Body[4])<<8|uint16(f.Body[5]) == sub {
			n++
		}
	}
	return n
}

// want holds that each request has been answered, once.
func (p *peer) want(x *town) {
	count := map[uint16]int{}
	for _, sub := range p.subs {
		count[sub]++
	}
	x.w.UntilWithin(2*time.Minute, func() bool {
		for sub, n := range count {
			if p.answers(sub) < n {
				return false
			}
		}
		return true
	})
	for sub := range uint16(ring) {
		if got := p.answers(sub); sub != wake && got != count[sub] {
			x.w.Fatalf("%d answers to %d requests of 4/%d", got, count[sub], sub)
		}
	}
}

// townWorld has clients that ask for all of it, and some that leave in the middle.
func townWorld(w *enginetest.World) {
	x := newTown(w)
	dial := func() *peer { return &peer{Client: w.Dial(x.s.Server)} }
	var peers []*peer
	for range 2 + w.Pick(4) {
		peers = append(peers, dial())
	}
	for n := range 15 + w.Pick(40) {
		i := w.Pick(len(peers))
		p := peers[i]
		switch sub := uint16(1 + w.Pick(9)); sub {
		case 9:
			if w.Chance(2) {
				p.Reset()
			} else {
				p.CloseWrite()
				p.want(x)
			}
			peers[i] = dial()
		case wake:
			w.Advance(w.Between(0, time.Second))
		case ring:
			if w.Chance(2) {
				x.rooms.Close(string(rune('a' + w.Pick(2))))
			} else {
				x.db.Down(w.Chance(2))
			}
		default:
			p.ask(sub, ask{N: n + 1, Room: string(rune('a' + w.Pick(2)))})
		}
		if w.Chance(2) {
			w.Advance(w.Between(0, 20*time.Millisecond))
		}
	}
	x.db.Down(false)
	for _, p := range peers {
		p.want(x)
	}
	w.Advance(5 * time.Second)
	x.check(peers)
}

func (x *town) check(peers []*peer) {
	if x.number != x.raised {
		x.w.Fatalf("%d of %d raises are in the number: the lock is not exclusive", x.number, x.raised)
	}
	if x.early > 0 {
		x.w.Fatalf("%d timers came early", x.early)
	}
	for n, times := range x.saved {
		if times != 1 {
			x.w.Fatalf("request %d was written %d times", n, times)
		}
	}
	for key, times := range x.rung {
		if times != 1 {
			x.w.Fatalf("the durable event %s ran %d times", key, times)
		}
	}
	for _, p := range peers { // answers of one handle come in the order of its requests
		last := map[uint16]int{}
		for _, f := range p.Frames() {
			var t told
			if f.Main != 4 || f.Sub == wake || json.Unmarshal(f.Body, &t) != nil {
				continue
			}
			if t.N <= last[f.Sub] {
				x.w.Fatalf("the answer to request %d of 4/%d comes behind that to %d", t.N, f.Sub, last[f.Sub])
			}
			last[f.Sub] = t.N
		}
	}
	for _, p := range peers { // who is still there gets each of its events, once
		for i, q := range p.asked {
			b, _ := json.Marshal(told{q.N})
			heard, answered := 0, 0
			for _, f := range p.Frames() {
				if f.Main == 4 && f.Sub == wake && string(f.Body) == string(b) {
					heard++
				}
				if f.Main == 4 && f.Sub == p.subs[i] && string(f.Body) == string(b) {
					answered++
				}
			}
			if p.subs[i] == later && heard != answered || p.subs[i] != later && heard > 0 {
				x.w.Fatalf("request %d of 4/%d: %d events of %d have come", q.N, p.subs[i], heard, answered)
			}
			if p.subs[i] == keep && answered == 1 && x.rung[fmt.Sprint(q.N)] != 1 {
				x.w.Fatalf("the durable event %d was kept and did not run", q.N)
			}
		}
	}
}

func TestTown(t *testing.T) {
	enginetest.Run(t, enginetest.Options{Seeds: seeds}, townWorld)
}

// The same seed is the same run, whatever the number of processors.
func TestSameSeedSameTown(t *testing.T) {
	hashes := func() (list []string) {
		enginetest.Run(t, enginetest.Options{Seeds: 12}, func(w *enginetest.World) {
			townWorld(w)
			list = append(list, fmt.Sprintf("seed %d: %d steps, %v, hash %x", w.Seed(), w.Steps(), w.Now(), w.Hash()))
		})
		return list
	}
	want := hashes()
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	for _, procs := range []int{1, 2} {
		runtime.GOMAXPROCS(procs)
		for i, got := range hashes() {
			if got != want[i] {
				t.Errorf("GOMAXPROCS=%d: got %s, want %s", procs, got, want[i])
			}
		}
	}
}
