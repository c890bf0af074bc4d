package enginetest

import (
	"errors"
	"runtime"
	"time"

	"millrace/codec"
	"millrace/engine"
)

// worker takes 30 µs for each request of 1/1, and answers it. 1/5 ends its goroutine, 1/6
// panics.
type worker struct{}

func (worker) OnSocketAccept(*engine.Session) {}
func (worker) OnSocketRead(s *engine.Session, p codec.Packet) {
	switch p.Sub {
	case 1:
		time.Sleep(30 * time.Microsecond)
	case 5:
		runtime.Goexit()
	case 6:
		panic("on purpose")
	}
	_ = s.Reply(p, p.Body)
}
func (worker) OnSocketClose(*engine.Session, engine.Reason) {}

// fairWorld has one client that sends very many requests at once, and some whose requests
// end a goroutine or panic: the others are served meanwhile as if they were alone.
func fairWorld(w *World) {
	srv := w.Server(engine.Config{Dispatch: dispatch(w), Loops: 1, Workers: 1, SpareWorkers: 2}, worker{})
	w.pace = 1
	flood, other := w.Dial(srv), w.Dial(srv)
	other.Send(1, 2, nil)
	other.Next(1, 2)
	for range 1 + w.Pick(2) {
		if w.Chance(2) {
			x := w.Dial(srv)
			for range 1 + w.Pick(3) {
				x.Send(1, uint16(1+w.Pick(4)), nil)
			}
			x.Send(1, uint16(5+w.Pick(2)), nil)
			x.harm()
			w.Until(x.Ended)
		}
		var many []byte
		for range 1500 + w.Pick(500) {
			many, _ = flood.codec.Append(many, codec.Packet{Main: 1, Sub: 1})
		}
		flood.Write(many)
		w.Advance(w.Between(time.Millisecond, 10*time.Millisecond))
		began := w.Now()
		other.Send(1, 2, nil)
		other.Next(1, 2)
		if took := w.Now() - began; took > 18*time.Millisecond {
			w.Fatalf("an echo took %v beside a client that has sent much; the way takes 3 ms", took)
		}
		wantEchoes(w, flood, 1)
	}
}

// stuck waits for what the world lets go.
type stuck struct{ let chan struct{} }

func (h stuck) OnSocketAccept(*engine.Session) {}
func (h stuck) OnSocketRead(s *engine.Session, p codec.Packet) {
	if p.Sub == 2 {
		<-h.let
	}
	_ = s.Reply(p, p.Body)
}
func (h stuck) OnSocketClose(*engine.Session, engine.Reason) {}

// stuckWorld has callbacks that do not return, and a Stop that does not wait for them for
// longer than it says.
func stuckWorld(w *World) {
	h := stuck{make(chan struct{})}
	srv := w.Server(engine.Config{Dispatch: dispatch(w), Workers: 1 + w.Pick(3)}, h)
	held := 0
	for range 1 + w.Pick(4) {
		c := w.Dial(srv)
		for range w.Pick(3) {
			c.Send(1, 1, nil)
		}
		if w.Chance(2) {
			held++
			c.Send(1, 2, nil)
			c.Send(1, 1, nil)
			c.harm()
		}
	}
	w.Advance(100 * time.Millisecond)
	limit := w.Between(0, 2*time.Second)
	began := w.Now()
	err := srv.StopWithin(limit)
	took := w.Now() - began
	for range held { // one after the other: who runs first of two is not the seed's to say
		h.let <- struct{}{}
		w.Advance(time.Millisecond)
	}
	var loss *engine.LossError
	if errors.As(err, &loss) != (held > 0) || held > 0 && len(loss.Stuck) != held {
		w.Fatalf("Stop says %v with %d callbacks that do not return", err, held)
	}
	if took > limit+3*time.Second+100*time.Millisecond {
		w.Fatalf("Stop with a context of %v took %v", limit, took)
	}
	if err := srv.Broadcast(1, 1, nil); !errors.Is(err, engine.ErrClosed) {
		w.Fatalf("a broadcast behind Stop: got %v", err)
	}
	w.Advance(time.Second)
}
