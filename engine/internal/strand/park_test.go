package strand

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/engine/internal/budget"
)

// A parked strand that several wake, while its runner may take it back itself, is run by
// one of them each time: nothing is lost, and nothing runs twice at once.
func TestParkWakeRaces(t *testing.T) {
	var s Strand
	bud := budget.New(1<<30, nil)
	queue := make(chan bool, 1) // the run queue: at most once on it
	push := func() {
		select {
		case queue <- true:
		default:
			t.Error("scheduled while it was scheduled")
		}
	}
	var blocked atomic.Bool // as an outbox that is full
	var inside, ran atomic.Int32
	var want uint32 // the runner's
	stop := make(chan bool)
	runner := func() {
		if inside.Add(1) != 1 {
			t.Error("two run it")
		}
		defer inside.Add(-1)
	}
	var wg, workers sync.WaitGroup
	for range 2 {
		workers.Add(1)
		go func() {
			defer workers.Done()
			for {
				select {
				case <-stop:
					return
				case <-queue:
				}
				s.Begin()
				for {
					if blocked.Load() {
						s.Park()
						if blocked.Load() || !s.Unpark() {
							break // somebody will wake it, or has
						}
					}
					it := s.Next(bud)
					if it == nil {
						if s.Rest(open) {
							break
						}
						continue
					}
					func() {
						runner()
						for b := it.B; len(b) > 0; b = b[12:] {
							if n := binary.BigEndian.Uint32(b[8:]); n != want {
								t.Errorf("frame %d, want %d", n, want)
							}
							want++
						}
					}()
					ran.Add(int32(len(it.B) / 12))
					s.Free(it, 0, bud)
				}
			}
		}()
	}
	for range 2 { // blocks it, and lets it go
		wg.Add(1)
		go func() {
			defer wg.Done()
			for {
				select {
				case <-stop:
					return
				default:
				}
				blocked.Store(true)
				blocked.Store(false)
				if s.Wake(open) {
					push()
				}
			}
		}()
	}
	const n = 20_000
	var at uint32
	for range n {
		if told, _ := s.PostFrames(frames(&at, 1), false, 0, 0, bud); told {
			push()
		}
	}
	for end := time.Now().Add(20 * time.Second); ran.Load() != n; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Errorf("%d of %d ran; state %v", ran.Load(), n, s.State())
			break
		}
	}
	close(stop)
	wg.Wait()
	workers.Wait()
	if bud.Used() != 0 {
		t.Errorf("%d still counted", bud.Used())
	}
}
