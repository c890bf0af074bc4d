package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"millrace/engine"
	"millrace/services"
	"millrace/timerwheel"
)

// The handles, all of Main 1.
const (
	subList  = 1
	subEnter = 2
	subWalk  = 3 // has no answer
	subLeave = 4
	subState = 5 // from the server, at each step: only the newest counts
	subWon   = 6 // from the server, when a round is over
)

// hz is how many steps an arena makes in a second.
const hz = 20

// room is an arena with its players' sessions as members.
type room = services.Room[string, *arena]

// lobby manages the arenas. An arena is created when the first player enters it, and ends when it has
// been empty for a while.
type lobby struct {
	arenas *services.Rooms[string, *arena]
}

func newLobby() (*lobby, error) {
	arenas, err := services.NewRooms(services.RoomsConfig[string, *arena]{
		Name: "arena", Idle: time.Minute, MaxRooms: 1000, MaxMembers: 64,
		New: func(r *room) (*arena, error) {
			return newArena(), r.SetTimer(1, time.Second/hz, 0, func(timerwheel.Firing) { tick(r) })
		},
		OnLeave: func(r *room, s *engine.Session) { delete(r.State.players, uint64(s.ID())) },
	})
	return &lobby{arenas}, err
}

// tick runs in the room, as does everything that uses its arena.
func tick(r *room) {
	if r.Len() == 0 {
		return
	}
	a := r.State
	winner := a.move()
	send(r, subState, state{Step: a.step, Coin: a.coin, Players: a.sorted()})
	if winner != nil {
		send(r, subWon, won{Name: winner.Name, Coins: winner.Coins})
	}
}

// send sends a message to all players in the room. For a slow client only the newest message of each
// Sub is kept, so that no queue of old states builds up and the client is not disconnected.
func send(r *room, sub uint16, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		slog.Error("game: what is not JSON", "sub", sub, "err", err)
		return
	}
	for s := range r.Members() {
		if err := s.PushKeyed(uint64(sub), 1, sub, body); err != nil && !errors.Is(err, engine.ErrClosed) {
			slog.Warn("game: a player could not be notified", "session", s, "err", err)
		}
	}
}

type state struct {
	Step    uint64    `json:"step"`
	Coin    square    `json:"coin"`
	Players []*player `json:"players"`
}

type won struct {
	Name  string `json:"name"`
	Coins int    `json:"coins"`
}

func (l *lobby) register(to *services.Controller) error {
	h := func(sub uint16) uint32 { return services.Handle(1, sub) }
	return errors.Join(
		services.Register(to, h(subList), services.Stages[services.None, listing]{Handle: l.list}, services.Name("list")),
		services.Register(to, h(subEnter), services.Stages[entry, field]{Handle: l.enter}, services.Name("enter")),
		services.Register(to, h(subWalk), services.Stages[square, services.None]{Handle: l.walk}, services.Name("walk"), services.OneWay()),
		services.Register(to, h(subLeave), services.Stages[services.None, services.None]{Handle: l.leave}, services.Name("leave")))
}

type listing struct {
	Arenas []arenaInfo `json:"arenas"`
}

type arenaInfo struct {
	Name    string `json:"name"`
	Players int    `json:"players"`
}

func (l *lobby) list(_ *services.Context, _ *services.None, res *listing) error {
	res.Arenas = []arenaInfo{}
	for r := range l.arenas.Each {
		res.Arenas = append(res.Arenas, arenaInfo{r.Key(), r.Len()})
	}
	slices.SortFunc(res.Arenas, func(a, b arenaInfo) int { return cmp.Compare(a.Name, b.Name) })
	return nil
}

type entry struct {
	Arena string `json:"arena"`
	Name  string `json:"name"`
}

// Validate is called before the handler.
func (e *entry) Validate() error {
	if len(e.Arena) < 1 || len(e.Arena) > 32 || len(e.Name) < 1 || len(e.Name) > 32 {
		return errors.New("arena and name have 1 to 32 bytes")
	}
	return nil
}

type field struct {
	You    int `json:"you"` // among the players of a state
	Width  int `json:"width"`
	Height int `json:"height"`
	Hz     int `json:"hz"`
}

// enter is answered by the arena, when the player is in it.
func (l *lobby) enter(ctx *services.Context, req *entry, _ *field) error {
	s := ctx.Session()
	if s.Value() != nil {
		return services.Errorf(engine.CodeConflict, "leave %s first", s.Value())
	}
	s.SetValue(req.Arena)
	reply := ctx.Defer()
	refused := func(err error) {
		_ = s.Submit(func() { s.SetValue(nil) }) // a session that has gone needs it no more
		reply.Done(nil, err)
	}
	err := l.arenas.PostOr(req.Arena, func(r *room) {
		if _, err := r.Join(s); err != nil {
			refused(err)
			return
		}
		p := r.State.add(uint64(s.ID()), req.Name)
		reply.Done(field{p.ID, width, height, hz}, nil)
	}, refused)
	if err != nil {
		s.SetValue(nil)
	}
	return err
}

// Validate checks that the square is in the field.
func (to *square) Validate() error {
	if to.X < 0 || to.X >= width || to.Y < 0 || to.Y >= height {
		return fmt.Errorf("x is 0 to %d, y 0 to %d", width-1, height-1)
	}
	return nil
}

func (l *lobby) walk(ctx *services.Context, to *square, _ *services.None) error {
	s := ctx.Session()
	name, ok := s.Value().(string)
	if !ok {
		return services.Errorf(engine.CodeNotFound, "enter an arena first")
	}
	target := *to
	return l.arenas.Post(name, func(r *room) { r.State.walk(uint64(s.ID()), target) })
}

// leave answers when the player has left.
func (l *lobby) leave(ctx *services.Context, _, _ *services.None) error {
	s := ctx.Session()
	name, ok := s.Value().(string)
	if !ok {
		return services.Errorf(engine.CodeNotFound, "enter an arena first")
	}
	s.SetValue(nil)
	reply := ctx.Defer()
	return l.arenas.Post(name, func(r *room) {
		r.Leave(s)
		delete(r.State.players, uint64(s.ID()))
		reply.Done(nil, nil)
	})
}
