package main

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"testing"
	"time"

	"millrace/codec"
	"millrace/engine"
	"millrace/services"
	"millrace/services/client"
)

// patience is how long the tests wait for what should come at once.
const patience = time.Minute

func start(t *testing.T) *services.Manager {
	t.Helper()
	m, err := serve("tcp://127.0.0.1:0")
	if err == nil {
		err = m.Start(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return m
}

// person is a player's client, and the last state that it was sent.
type person struct {
	*client.Client
	t     *testing.T
	field field

	mu  sync.Mutex
	now state // guarded by mu
	won []won // guarded by mu
}

func enter(t *testing.T, m *services.Manager, arena, name string) *person {
	t.Helper()
	p := &person{t: t}
	c, err := client.Dial(t.Context(), client.Config{Addrs: m.TCP().URLs()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	p.Client = c
	c.On(services.Handle(1, subState), func(f codec.Packet) {
		p.mu.Lock()
		defer p.mu.Unlock()
		was := p.now.Step
		p.now = state{}
		if err := json.Unmarshal(f.Body, &p.now); err != nil || p.now.Step <= was {
			t.Errorf("step %d comes behind %d, %v", p.now.Step, was, err)
		}
	})
	c.On(services.Handle(1, subWon), func(f codec.Packet) {
		var w won
		if err := json.Unmarshal(f.Body, &w); err != nil {
			t.Error(err)
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.won = append(p.won, w)
	})
	if p.field, err = client.Call[entry, field](t.Context(), c, services.Handle(1, subEnter), entry{arena, name}); err != nil {
		t.Fatal(err)
	}
	return p
}

// until waits for a state.
func (p *person) until(what string, ok func(s state) bool) {
	p.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		p.mu.Lock()
		now := p.now
		p.mu.Unlock()
		if ok(now) {
			return
		}
		if time.Now().After(end) {
			p.t.Fatalf("%s: not within %v; the last state is %+v", what, patience, now)
		}
	}
}

func (p *person) walk(to square) {
	p.t.Helper()
	body, _ := json.Marshal(to)
	if err := p.Send(p.t.Context(), services.Handle(1, subWalk), body); err != nil {
		p.t.Fatal(err)
	}
}

// me is this player in a state.
func (p *person) me(s state) *player {
	for _, q := range s.Players {
		if q.ID == p.field.You {
			return q
		}
	}
	return nil
}

// Two play until one has won: she walks to each coin, the other one sees it.
func TestARoundIsPlayedToItsEnd(t *testing.T) {
	m := start(t)
	ann, ben := enter(t, m, "green", "ann"), enter(t, m, "green", "ben")
	ben.until("ann is there", func(s state) bool { return len(s.Players) == 2 })
	coin := square{-1, -1}
	ann.until("a round", func(s state) bool {
		if s.Step > 0 && s.Coin != coin {
			coin = s.Coin
			ann.walk(coin)
		}
		ann.mu.Lock()
		defer ann.mu.Unlock()
		return len(ann.won) > 0
	})
	ben.until("the winner", func(state) bool {
		ben.mu.Lock()
		defer ben.mu.Unlock()
		return len(ben.won) > 0 && ben.won[0] == won{Name: "ann", Coins: coinsToWin}
	})
}

func TestTheLobbyListsArenas(t *testing.T) {
	m := start(t)
	ann := enter(t, m, "green", "ann")
	enter(t, m, "blue", "ben")
	enter(t, m, "blue", "cat").Close()
	want := []arenaInfo{{"blue", 1}, {"green", 1}}
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		got, err := client.Call[services.None, listing](t.Context(), ann.Client, services.Handle(1, subList), services.None{})
		if err == nil && len(got.Arenas) == 2 && got.Arenas[0] == want[0] && got.Arenas[1] == want[1] {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("got %v, %v, want %v", got, err, want)
		}
	}
}

func TestWhoLeavesOrGoesIsNoPlayerAnyMore(t *testing.T) {
	m := start(t)
	ann, ben, cat := enter(t, m, "green", "ann"), enter(t, m, "green", "ben"), enter(t, m, "green", "cat")
	ann.until("all are there", func(s state) bool { return len(s.Players) == 3 })
	if _, err := ben.Do(t.Context(), services.Handle(1, subLeave), nil); err != nil {
		t.Fatal(err)
	}
	cat.Close()
	ann.until("she is alone", func(s state) bool { return len(s.Players) == 1 && ann.me(s) != nil })
	again, err := client.Call[entry, field](t.Context(), ben.Client, services.Handle(1, subEnter), entry{"green", "ben"})
	if err != nil || again.You == ben.field.You {
		t.Errorf("entering again: %+v, %v", again, err)
	}
}

func TestWrongRequestsAreToldSo(t *testing.T) {
	m := start(t)
	ann := enter(t, m, "green", "ann")
	for _, c := range []struct {
		name string
		req  entry
		want engine.ErrorCode
	}{
		{"twice", entry{"blue", "ann"}, engine.CodeConflict},
		{"no name", entry{"blue", ""}, engine.CodeBadBody},
	} {
		_, err := client.Call[entry, field](t.Context(), ann.Client, services.Handle(1, subEnter), c.req)
		var e *client.Error
		if !errors.As(err, &e) || engine.ErrorCode(e.Code) != c.want {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
}

// The arena goes on at its pace whatever a player does not read.
func TestAPlayerWhoReadsNothingHoldsNobodyUp(t *testing.T) {
	m := start(t)
	ann := enter(t, m, "green", "ann")
	deaf := enter(t, m, "green", "deaf")
	block := make(chan struct{})
	defer close(block)
	deaf.On(services.Handle(1, subState), func(codec.Packet) { <-block })
	var from uint64
	ann.until("deaf is there", func(s state) bool { from = s.Step; return len(s.Players) == 2 })
	ann.until("a second of steps", func(s state) bool { return s.Step > from+hz })
}
