package main

import "testing"

func TestAPlayerWalksASquareAStepAndStops(t *testing.T) {
	a := newArena()
	a.place = func() square { return square{5, 5} }
	p := a.add(1, "ann")
	a.coin = square{31, 17}
	a.walk(1, square{7, 4})
	for step, want := range []square{{6, 4}, {7, 4}, {7, 4}} {
		if a.move(); p.At != want {
			t.Errorf("after step %d at %v, want %v", step+1, p.At, want)
		}
	}
}

func TestACoinIsOnesAndTheNextOneComes(t *testing.T) {
	a := newArena()
	places := []square{{0, 0}, {2, 0}, {9, 9}} // ann, ben, the next coin
	a.place = func() square { next := places[0]; places = places[1:]; return next }
	a.coin = square{1, 0}
	a.add(1, "ann")
	a.add(2, "ben")
	a.walk(1, a.coin)
	a.walk(2, a.coin) // both reach it with this step
	a.move()
	if ann, ben := a.players[1].Coins, a.players[2].Coins; ann != 1 || ben != 0 || a.coin != (square{9, 9}) {
		t.Errorf("ann has %d, ben %d, the coin is at %v; want 1, 0, {9 9}", ann, ben, a.coin)
	}
}

func TestARoundEndsAndANewOneBegins(t *testing.T) {
	a := newArena()
	a.add(1, "ann")
	a.add(2, "ben")
	a.players[2].Coins = coinsToWin - 1
	var winner *player
	for n := 0; winner == nil; n++ {
		if n > coinsToWin {
			t.Fatal("nobody wins")
		}
		a.coin = a.players[1].At // ann stands on each coin
		winner = a.move()
	}
	if winner.Name != "ann" || winner.Coins != coinsToWin || a.players[1].Coins != 0 || a.players[2].Coins != 0 {
		t.Errorf("won by %+v; then ann has %d and ben %d, want 0", winner, a.players[1].Coins, a.players[2].Coins)
	}
}
