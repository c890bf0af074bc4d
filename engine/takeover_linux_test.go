package engine

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/codec"
)

// handed is a resumable handler whose sessions can be taken over, each with a number: how many
// requests it has had.
type handed struct {
	*resumable
	accepted, closed, marshalled, unmarshalled atomic.Int64
	refuse                                     atomic.Bool // UnmarshalSession does
}

func newHanded() *handed {
	h := &handed{resumable: newResumable()}
	read := h.read
	h.accept = func(*Session) { h.accepted.Add(1) }
	h.close = func(*Session, Reason) { h.closed.Add(1) }
	h.read = func(s *Session, p codec.Packet) {
		n, _ := s.Value().(uint64)
		s.SetValue(n + 1)
		if p.Sub == 9 {
			s.Reply(p, binary.BigEndian.AppendUint64(nil, n))
			return
		}
		read(s, p)
	}
	return h
}

func (h *handed) MarshalSession(s *Session) ([]byte, error) {
	h.marshalled.Add(1)
	n, _ := s.Value().(uint64)
	return binary.BigEndian.AppendUint64(nil, n), nil
}

func (h *handed) UnmarshalSession(s *Session, b []byte) error {
	h.unmarshalled.Add(1)
	if h.refuse.Load() {
		return errors.New("no")
	}
	s.SetValue(binary.BigEndian.Uint64(b))
	return nil
}

// town are servers that take sessions over from each other, without anything in between.
type town struct {
	servers []*Server
	urls    []string

	mu      sync.Mutex
	most    int                // guarded by mu
	between func(d *Departure) // guarded by mu; called between Depart and Commit; nil: nothing is
	asked   func(to int)       // guarded by mu; called at the start of each TakeOver; nil: nothing is
	cut     func()             // guarded by mu; called between Commit and Rest; nil: nothing is
	moved   map[TokenSum]int
	errs    []error
}

// quarter is one server of a town.
type quarter struct {
	t *town
	i int
}

func (q quarter) Mark() [MarkLen]byte        { return [MarkLen]byte{'q', 0, 0, byte(q.i)} }
func (q quarter) Others() bool               { return len(q.t.servers) > 1 }
func (q quarter) Lives(tok codec.Token) bool { return tok[0] == 'q' && int(tok[3]) < len(q.t.servers) }

func (q quarter) TakeOver(a *Arrival) {
	q.t.mu.Lock()
	asked := q.t.asked
	q.t.mu.Unlock()
	if asked != nil {
		asked(q.i)
	}
	if err := q.t.takeOver(q.i, a); err != nil {
		q.t.mu.Lock()
		q.t.errs = append(q.t.errs, err)
		q.t.mu.Unlock()
	}
}

func (t *town) takeOver(to int, a *Arrival) error {
	ctx, cancel := context.WithTimeout(a.Context(), time.Minute)
	defer cancel()
	tok := a.Token()
	sum, from := SumOf(tok), int(tok[3])
	for hops := 0; hops < 20; hops++ {
		t.mu.Lock()
		if next, ok := t.moved[sum]; ok {
			from = next
		}
		most := t.most
		t.mu.Unlock()
		d, err := t.servers[from].Depart(ctx, sum, a.Received(), most)
		if errors.Is(err, ErrBeingTaken) {
			time.Sleep(time.Millisecond)
			continue
		}
		if err != nil {
			return err
		}
		return t.carry(ctx, to, a, d, sum)
	}
	return ErrUnknownToken
}

func (t *town) carry(ctx context.Context, to int, a *Arrival, d *Departure, sum TokenSum) error {
	defer d.Cancel()
	if _, err := a.Open(d.Accepted); err != nil {
		return err
	}
	if err := a.Unmarshal(d.State); err != nil {
		return err
	}
	t.mu.Lock()
	between := t.between
	t.mu.Unlock()
	if between != nil {
		between(d)
	}
	a.Begin()
	if !d.Commit() {
		return ErrClosed
	}
	t.mu.Lock()
	t.moved[sum] = to
	cut := t.cut
	t.mu.Unlock()
	if cut != nil {
		cut()
	}
	rest, err := d.Rest(ctx)
	if err != nil {
		return err
	}
	c := d.Transfer
	c.Frames = append(c.Frames, rest...)
	return a.Take(c)
}

// newTown starts n servers with the same handler.
func newTown(t *testing.T, n int, cfg Config, h Handler) *town {
	t.Helper()
	w := &town{moved: map[TokenSum]int{}, most: 1 << 20}
	for range n {
		w.servers = append(w.servers, nil)
	}
	cfg.Handover = Off // so that the end waits for nobody
	for i := range n {
		srv, err := New(cfg, h)
		if err != nil {
			t.Fatal(err)
		}
		srv.SetOtherServers(quarter{w, i})
		if err := srv.Start(context.Background()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			_ = srv.Stop(ctx)
		})
		w.servers[i] = srv
		w.urls = append(w.urls, srv.URLs()[0])
	}
	return w
}

// As TestCutAtEveryByte, but that each connection goes to another server than the one before.
func TestSessionIsTakenOverWhereverItIsCut(t *testing.T) {
	for _, d := range []Dispatch{Adaptive, Inline} {
		t.Run(fmt.Sprint(d), func(t *testing.T) {
			h := newHanded()
			cfg := resumeConfig("tcp://127.0.0.1:0")
			cfg.Dispatch, cfg.Loops = d, 2
			w := newTown(t, 3, cfg, h)
			whole := &resumer{url: w.urls[0], ackEvery: 3}
			n := script(whole) + 1
			whole.ask(1, 9, "")
			if err := whole.goOn(n, nil); err != nil {
				t.Fatal(err)
			}
			requests := h.ran.Swap(0)
			up, down, _ := whole.cut.state()
			whole.close()
			step := 1
			if !*long {
				step = 3
			}
			var runs []cuts
			for i := max(1, whole.opened[0]-50); i < up; i += step {
				runs = append(runs, cuts{{i, -1}})
			}
			for i := max(1, whole.opened[1]-50); i < down; i += step {
				runs = append(runs, cuts{{-1, i}})
			}
			for i := 1; i < min(up, 150); i += 3*step - 2 {
				runs = append(runs, cuts{{-1, down - 20}, {i, -1}}, cuts{{-1, down / 2}, {-1, i}, {-1, i}, {i, -1}})
			}
			jobs := make(chan cuts)
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					for c := range jobs {
						p := &resumer{urls: w.urls, ackEvery: 3}
						script(p)
						p.ask(1, 9, "")
						if err := p.goOn(n, c); err != nil {
							t.Errorf("cut at %v: %v", c, err)
							continue
						}
						if !sameFrames(p.got, whole.got) {
							t.Errorf("cut at %v: got %s want %s", c, show(p.got), show(whole.got))
						}
						p.write(SubBye, nil)
						p.close()
					}
				})
			}
			for _, c := range runs {
				jobs <- c
			}
			close(jobs)
			wg.Wait()
			if got, want := h.ran.Load(), requests*int64(len(runs)); got != want {
				t.Errorf("%d requests were run in %d runs, want %d", got, len(runs), want)
			}
			taken := uint64(0)
			for _, srv := range w.servers {
				taken += srv.Stats().TakenOver
			}
			if taken < uint64(len(runs))/2 {
				t.Errorf("%d sessions were taken over in %d runs", taken, len(runs))
			}
			t.Logf("%d runs; %d taken over; %d refused: %v", len(runs), taken, len(w.errs), firstOf(w.errs))
		})
	}
}

func firstOf(errs []error) any {
	if len(errs) == 0 {
		return "none"
	}
	return errs[0]
}

// What is pushed to a session while it is carried comes behind what was before, once, and what
// is pushed behind the cut is refused; what is broadcast where it goes comes behind that.
func TestPushesWhileTheSessionIsCarried(t *testing.T) {
	h := newHanded()
	w := newTown(t, 2, resumeConfig("tcp://127.0.0.1:0"), h)
	w.mu.Lock()
	w.between = func(d *Departure) {
		for i := range 3 {
			if err := d.Session.Push(3, uint16(i), []byte("between")); err != nil {
				t.Error(err)
			}
		}
		w.servers[1].Broadcast(4, 0, []byte("too early"))
	}
	w.mu.Unlock()
	p := &resumer{urls: w.urls, ackEvery: 1}
	if err := p.connect(-1, -1); err != nil {
		t.Fatal(err)
	}
	p.ask(1, 3, "one")
	p.want(t, 2)
	var old *Session
	w.servers[0].Sessions(func(s *Session) bool { old = s; return true })
	p.close()
	waiting(t, w.servers[0], 1)
	if err := old.Push(2, 0, []byte("away")); err != nil {
		t.Fatal(err)
	}
	if err := p.connect(-1, -1); err != nil {
		t.Fatal(err)
	}
	w.servers[1].Broadcast(4, 1, []byte("late"))
	p.ask(1, 1, "two")
	p.want(t, 8)
	var got []string
	for _, f := range p.got {
		got = append(got, fmt.Sprintf("%d/%d %s", f.Main, f.Sub, f.Body))
	}
	want := []string{"1/3 one", "2/4 pushed", "2/0 away", "3/0 between", "3/1 between", "3/2 between"}
	if !slices.Equal(got[:6], want) || !slices.Contains(got, "1/1 two") || !slices.Contains(got, "4/1 late") || slices.Contains(got, "4/0 too early") {
		t.Errorf("got %q", got)
	}
	if err := old.Push(2, 0, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("a push to the session that has gone: %v", err)
	}
	waitFor(t, "the old session's end", func() bool { return h.closed.Load() == 1 && w.servers[0].Conns() == 0 })
	if n := w.servers[0].Stats().Closes[ReasonMoved]; n != 1 {
		t.Errorf("%d sessions have moved", n)
	}
	if h.accepted.Load() != 1 || h.unmarshalled.Load() != 1 {
		t.Errorf("%d sessions were accepted and %d came, want one each", h.accepted.Load(), h.unmarshalled.Load())
	}
}
