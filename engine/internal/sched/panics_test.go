package sched

import (
	"fmt"
	"log/slog"
	"testing"
)

// A place that panics for the first time is logged, however many others have before it, and a place
// that has just been logged is not again.
func TestNewPlacesAreLoggedForEver(t *testing.T) {
	l := NewPanics(slog.New(slog.DiscardHandler))
	for i := range 3 * maxPlaces {
		place := fmt.Sprint("f:", i)
		if !l.first(place) {
			t.Fatalf("place %d is not logged", i+1)
		}
		if l.first(place) {
			t.Fatalf("place %d is logged twice", i+1)
		}
		if n := len(l.places); n > maxPlaces {
			t.Fatalf("%d places are remembered, want %d at most", n, maxPlaces)
		}
	}
}
