package enginetest

import (
	"errors"
	"time"

	"millrace/codec"
	"millrace/engine"
)

// library answers with as many KiB as the body says.
type library struct{}

func (library) OnSocketAccept(*engine.Session) {}
func (library) OnSocketRead(s *engine.Session, p codec.Packet) {
	for i := range int(p.Body[0]) {
		_ = s.Reply(p, number(i, 1<<10))
	}
}
func (library) OnSocketClose(*engine.Session, engine.Reason) {}

// slowWorld has clients behind slow ways that fetch large answers for longer than they may be
// idle, and that the server drains meanwhile: they get all of it, or Stop says that they did
// not; who is in the middle of a frame holds it up no longer than requests are served.
func slowWorld(w *World) {
	const idle = 2 * time.Second
	srv := w.Server(engine.Config{Dispatch: dispatch(w), Timeouts: engine.Timeouts{IdleTimeout: idle}}, library{})
	path := Path{Latency: 250 * time.Millisecond, SendBuffer: 16 << 10, RecvBuffer: 8 << 10, Rate: 20 << 10}
	if w.Chance(2) {
		path.SendBuffer = 256 << 10 // the kernel takes all at once, and it takes seconds
	}
	type reader struct {
		*Client
		kib int
	}
	var readers []*reader
	for range 1 + w.Pick(3) {
		most := 200
		if w.Chance(2) {
			most = 24 // which the kernels on the way can hold
		}
		r := &reader{w.DialPath(srv, path), 1 + w.Pick(most)}
		r.Send(1, 1, []byte{byte(r.kib)})
		readers = append(readers, r)
	}
	half := w.Dial(srv)
	w.Advance(w.Between(600*time.Millisecond, 4*time.Second))
	if w.Chance(2) { // no drain: all of it comes
		for _, r := range readers {
			w.UntilWithin(w.opt.Patience, func() bool { return r.Ended() || r.answers(1) == r.kib })
			if got := r.answers(1); got != r.kib {
				w.Fatalf("client %d has fetched %d of %d KiB and was closed", r.conn.ID(), got, r.kib)
			}
		}
		return
	}
	if w.Chance(2) {
		half.Write([]byte{0, 0, 0, 50, 0, 1})
		half.harm()
		w.Advance(5 * time.Millisecond)
	}
	stalled := false
	for _, r := range readers {
		if w.Chance(3) { // and it goes on in the middle of the drain, or behind it
			stalled = true
			r.Stall(true)
			w.After(w.Between(0, 24*time.Second), func() { r.Stall(false) })
			continue // to send more now could bring a reset, which takes what was not read
		}
		for range w.Pick(4) { // which are input that is not read when the session closes
			w.After(w.Between(0, 3*time.Second), func() {
				if !r.hurt && !r.finned && !r.over {
					b, _ := r.codec.Append(nil, codec.Packet{Sub: engine.SubPing})
					r.conn.Send(b)
				}
			})
		}
	}
	limit := w.Between(2*time.Second, 20*time.Second)
	began := w.Now()
	err := srv.StopWithin(limit)
	took := w.Now() - began
	for _, r := range readers {
		r.Stall(false)
	}
	w.Advance(15 * time.Second) // what is on its way arrives
	whole, small := true, true
	for _, r := range readers {
		whole = whole && r.answers(1) == r.kib
		small = small && r.kib <= 24
	}
	var loss *engine.LossError
	switch {
	case err == nil && !whole:
		w.Fatalf("Stop says that nothing was lost, but the answers have not come whole")
	case err != nil && !errors.As(err, &loss):
		w.Fatalf("Stop: %v", err)
	case small && !stalled && took > 6*time.Second:
		w.Fatalf("a drain of %v took %v, though nobody fetched anything for long", limit, took)
	}
}
