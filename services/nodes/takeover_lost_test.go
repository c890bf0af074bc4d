package nodes_test

import (
	"bytes"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"millrace/codec"
	"millrace/engine"
	"millrace/internal/proctest"
	"millrace/services/nodes/internal/envelope"
)

// isAnswer reports whether a message of a NATS server to a node is an answer of another node.
func isAnswer(message []byte) bool { return isOf(envelope.Answer, message) }

// isOf reports whether a message of a NATS server to a node is of that kind.
func isOf(kind envelope.Kind, message []byte) bool {
	_, b, _ := bytes.Cut(message, []byte("\r\n"))
	return len(b) > envelope.HeaderLen && b[0] == envelope.Version && envelope.Kind(b[1]) == kind
}

// Any one answer about a session that moves may be lost: the question is asked again, and the session
// comes with all of its frames.
func TestLostAnswersLoseNoSession(t *testing.T) {
	url := servers(t)
	for name, c := range map[string]struct {
		come   bool  // count from the moment when b has the state
		lost   int64 // which answer, from 1
		pushes int   // of 10 KiB, meanwhile
	}{"the offer": {false, 1, 8}, "the commit": {true, 1, 8}} {
		t.Run(name, func(t *testing.T) {
			proxy, cut := through(t, url)
			proxy.Messages(proctest.NATSMessage)
			long := func(s *settings) { s.TakeoverTimeout = 8 * time.Second }
			na, a := startMoving(t, url, "a", &given{most: 1 << 20}, long)
			hb := &given{most: 1 << 20}
			nb, b := startMoving(t, cut, "b", hb, long)
			na.knows("a=up b=up")
			nb.knows("a=up b=up")
			token, _ := hello(t, a, nil)
			var s *engine.Session
			a.Sessions(func(x *engine.Session) bool { s = x; return true })
			var answers atomic.Int64
			drop := func() {
				proxy.Drop(func(m []byte) bool { return isAnswer(m) && answers.Add(1) == c.lost })
			}
			hb.come = func() {
				for range c.pushes {
					if err := s.Push(1, 1, make([]byte, 10<<10)); err != nil {
						t.Error(err)
					}
				}
				if c.come {
					drop()
				}
			}
			if !c.come {
				drop()
			}
			if _, resumed := hello(t, b, token); !resumed {
				t.Fatalf("not resumed: %v", nb.Stats().NotTaken)
			}
			eventually(t, "it is counted", func() bool { return nb.Stats().Taken == 1 && na.Stats().Given == 1 })
			if answers.Load() <= c.lost {
				t.Errorf("%d answers, so none was lost", answers.Load())
			}
			eventually(t, "nothing is on its way", func() bool {
				in, _ := nb.OnTheWay()
				_, out := na.OnTheWay()
				return in == 0 && out == 0
			})
		})
	}
}

// holdUp is the default framing, whose next frame, once it is armed, holds the loop up until free is
// closed. Nobody stands in for a loop there, as for one in a callback.
type holdUp struct {
	*codec.Codec
	armed      atomic.Bool
	busy, free chan struct{}
}

func (h *holdUp) Split(b []byte, _ int) (size, missing int, err error) {
	if h.armed.Swap(false) {
		close(h.busy)
		<-h.free
	}
	return h.Frame(b)
}

func (*holdUp) Handles() bool { return true }

// A node that has given a session away, but can't read its last frames in time, gives them when it is
// asked again.
func TestCommitIsFinishedWhenItIsAskedAgain(t *testing.T) {
	url := servers(t)
	stuck := &holdUp{Codec: codec.Default(), busy: make(chan struct{}), free: make(chan struct{})}
	ha := &given{framer: stuck}
	na, a := startMoving(t, url, "a", ha, func(s *settings) { s.TakeoverTimeout = 300 * time.Millisecond })
	hb := &given{}
	nb, b := startMoving(t, url, "b", hb, func(s *settings) { s.TakeoverTimeout = patience })
	na.knows("a=up b=up")
	nb.knows("a=up b=up")
	token, _ := hello(t, a, nil)
	conn, err := net.Dial("tcp", a.Addrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	hb.come = func() { // a's loop stands still from before the commit on
		stuck.armed.Store(true)
		if _, err := conn.Write(codec.Packet{Main: 5, Sub: 5}.Append(nil)); err != nil {
			t.Error(err)
		}
		<-stuck.busy
		time.AfterFunc(900*time.Millisecond, func() { close(stuck.free) })
	}
	if _, resumed := hello(t, b, token); !resumed {
		t.Fatalf("not resumed: %v", nb.Stats().NotTaken)
	}
	eventually(t, "it is counted", func() bool { return na.Stats().Given == 1 })
}

// A node that stops as soon as its last session has been given away still answers the node that has
// it, whose first answer was lost.
func TestNodeThatStopsFinishesWhatItHasGiven(t *testing.T) {
	url := servers(t)
	proxy, cut := through(t, url)
	proxy.Messages(proctest.NATSMessage)
	long := func(s *settings) { s.TakeoverTimeout = 8 * time.Second }
	na, a := startMoving(t, url, "a", &given{}, long)
	hb := &given{}
	nb, b := startMoving(t, cut, "b", hb, long)
	na.knows("a=up b=up")
	nb.knows("a=up b=up")
	token, _ := hello(t, a, nil)
	var answers atomic.Int64
	hb.come = func() {
		proxy.Drop(func(m []byte) bool { return isAnswer(m) && answers.Add(1) == 1 })
	}
	ended := make(chan error, 2)
	go func() {
		for end := time.Now().Add(patience); na.Stats().Given == 0 && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
		ended <- a.Stop(background)
		ended <- na.Stop(background)
	}()
	if _, resumed := hello(t, b, token); !resumed {
		t.Errorf("not resumed; given %d, not taken %v", na.Stats().Given, nb.Stats().NotTaken)
	}
	if answers.Load() < 2 {
		t.Errorf("%d answers, so none was lost", answers.Load())
	}
	for range 2 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}
