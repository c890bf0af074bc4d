package main

import (
	"cmp"
	"math/rand/v2"
	"slices"
)

// The field, in squares, and how many coins win a round.
const (
	width, height = 32, 18
	coinsToWin    = 3
)

// arena is one game: players walk one square per step, and pick up the coin. It knows nothing of
// sessions and time. Only its room uses it, so one goroutine at a time.
type arena struct {
	step    uint64
	came    int // players so far
	players map[uint64]*player
	coin    square
	place   func() square // where the next coin and the next player come
}

type square struct {
	X int `json:"x"`
	Y int `json:"y"`
}

type player struct {
	ID    int    `json:"id"` // counts those who came
	Name  string `json:"name"`
	At    square `json:"at"`
	Coins int    `json:"coins"`
	to    square // where he walks
}

func newArena() *arena {
	a := &arena{players: map[uint64]*player{}, place: func() square { return square{rand.IntN(width), rand.IntN(height)} }}
	a.coin = a.place()
	return a
}

// add adds a player under a key, which walk takes.
func (a *arena) add(key uint64, name string) *player {
	a.came++
	at := a.place()
	p := &player{ID: a.came, Name: name, At: at, to: at}
	a.players[key] = p
	return p
}

// walk sets the square that a player walks to, which must be in the field.
func (a *arena) walk(key uint64, to square) {
	if p := a.players[key]; p != nil {
		p.to = to
	}
}

// move moves all players by one step. If that ends the round, it returns the winner and begins a new
// round.
func (a *arena) move() (winner *player) {
	a.step++
	for _, p := range a.sorted() { // of two who reach a coin at once, the one who came first
		p.At.X += cmp.Compare(p.to.X, p.At.X)
		p.At.Y += cmp.Compare(p.to.Y, p.At.Y)
		if p.At != a.coin {
			continue
		}
		a.coin = a.place()
		if p.Coins++; p.Coins == coinsToWin {
			winner = &player{ID: p.ID, Name: p.Name, Coins: p.Coins}
			for _, p := range a.players {
				p.Coins = 0
			}
		}
	}
	return winner
}

// sorted returns the players in the order in which they joined.
func (a *arena) sorted() []*player {
	all := make([]*player, 0, len(a.players))
	for _, p := range a.players {
		all = append(all, p)
	}
	slices.SortFunc(all, func(p, q *player) int { return cmp.Compare(p.ID, q.ID) })
	return all
}
