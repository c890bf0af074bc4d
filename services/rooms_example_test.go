package services_test

import (
	"context"
	"fmt"
	"slices"
	"time"

	"millrace/engine"
	"millrace/services"
	"millrace/timerwheel"
)

// game is the state of one room: only functions that run in the room touch it.
type game struct{ ticks, moves int }

// A game whose state moves on 20 times a second. Sessions post their moves; a real one would
// Join the session and Send it the state at each tick.
func ExampleRooms() {
	ctx := context.Background()
	type room = services.Room[string, *game]
	over := make(chan string)
	rooms, err := services.NewRooms(services.RoomsConfig[string, *game]{
		New: func(r *room) (*game, error) {
			return &game{}, r.SetTimer(1, time.Second/20, 5, func(f timerwheel.Firing) {
				g := r.State
				if g.ticks++; f.Left == 0 {
					r.Close()
				}
			})
		},
		OnClose: func(r *room, why engine.Reason) {
			over <- fmt.Sprintf("%s: %d ticks, %d moves, %v", r.Key(), r.State.ticks, r.State.moves, why)
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	m, err := services.New(services.Config{Services: []services.Spec{{Name: "games", Service: rooms}}})
	if err == nil {
		err = m.Start(ctx)
	}
	if err != nil {
		fmt.Println(err)
		return
	}
	defer m.Stop(ctx)
	for range 3 {
		if err := rooms.Post("chess", func(r *room) { r.State.moves++ }); err != nil {
			fmt.Println(err)
		}
	}
	fmt.Println(<-over)
	// Output: chess: 5 ticks, 3 moves, server_closed
}

type offer struct {
	Buy        bool
	Price, Qty int
}

// book is an order book: what is offered, the best price first.
type book struct{ bids, asks []offer }

// match trades o against the other side, and keeps what is left of it.
func (b *book) match(o offer, traded func(price, qty int)) {
	mine, other := &b.bids, &b.asks
	if !o.Buy {
		mine, other = other, mine
	}
	crosses := func(q offer) bool { return o.Buy && q.Price <= o.Price || !o.Buy && q.Price >= o.Price }
	for o.Qty > 0 && len(*other) > 0 && crosses((*other)[0]) {
		best := &(*other)[0]
		n := min(o.Qty, best.Qty)
		traded(best.Price, n)
		o.Qty -= n
		if best.Qty -= n; best.Qty == 0 {
			*other = (*other)[1:]
		}
	}
	if o.Qty > 0 {
		at, _ := slices.BinarySearchFunc(*mine, o, func(q, o offer) int { // behind its equals
			if q.Price == o.Price || q.Price > o.Price == o.Buy {
				return -1
			}
			return 1
		})
		*mine = slices.Insert(*mine, at, o)
	}
}

// An order book for each share: orders of one share are matched one at a time and in order,
// those of others at the same time.
func ExampleRooms_orderBook() {
	ctx := context.Background()
	type room = services.Room[string, *book]
	books, err := services.NewRooms(services.RoomsConfig[string, *book]{
		New: func(*room) (*book, error) { return &book{}, nil },
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	m, err := services.New(services.Config{Services: []services.Spec{{Name: "books", Service: books}}})
	if err == nil {
		err = m.Start(ctx)
	}
	if err != nil {
		fmt.Println(err)
		return
	}
	defer m.Stop(ctx)
	trades := make(chan string, 10)
	for _, o := range []offer{{true, 101, 5}, {true, 102, 5}, {false, 103, 1}, {false, 101, 8}} {
		err := books.Post("ACME", func(r *room) {
			r.State.match(o, func(price, qty int) { trades <- fmt.Sprintf("%s: %d at %d", r.Key(), qty, price) })
		})
		if err != nil {
			fmt.Println(err)
		}
	}
	fmt.Println(<-trades)
	fmt.Println(<-trades)
	// Output:
	// ACME: 5 at 102
	// ACME: 3 at 101
}
