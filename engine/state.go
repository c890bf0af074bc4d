package engine

import (
	"context"
	"slices"
	"strings"
	"time"

	"millrace/codec"
	"millrace/engine/internal/inbox"
	"millrace/engine/internal/strand"
)

// Pause is why a session is not read from; 0 when it is read from.
type Pause uint8

const (
	PauseOutbound = Pause(inbox.PauseOut)    // MaxOutbound: too much is unsent
	PausePending  = Pause(inbox.PauseIn)     // MaxPending: too many requests wait
	PauseMemory   = Pause(inbox.PauseBudget) // MemoryBudget
	PauseRate     = Pause(inbox.PauseRate)   // FrameRate, ByteRate or SessionCPU
)

var pauseNames = []struct {
	bit  Pause
	name string
}{{PauseOutbound, "max_outbound"}, {PausePending, "max_pending"}, {PauseMemory, "memory_budget"}, {PauseRate, "rate"}}

// Reasons names the limits that p stands for.
func (p Pause) Reasons() []string {
	var all []string
	for _, x := range pauseNames {
		if p&x.bit != 0 {
			all = append(all, x.name)
		}
	}
	return all
}

func (p Pause) String() string { return strings.Join(p.Reasons(), ",") }

// setPaused notes why the session is not read from. Loop goroutine.
func (s *Session) setPaused(why inbox.Pause) {
	s.rd.paused = why
	const all = uint32(inbox.PauseOut | inbox.PauseIn | inbox.PauseBudget | inbox.PauseRate)
	s.flags.clear((all &^ uint32(why)) * flagPaused)
	if why != 0 {
		s.flags.bits.Or(uint32(why) * flagPaused)
	}
}

func (s *Session) pausedFor() Pause { return Pause(s.flags.bits.Load() / flagPaused & 15) }

// Loop is the number of the loop that serves the session, as in Stats.Loops.
func (s *Session) Loop() int { return s.loop.index }

// Groups are the names of the groups that the session is in, sorted.
func (s *Session) Groups() []string {
	s.srv.groups.mu.Lock()
	defer s.srv.groups.mu.Unlock()
	var all []string
	for m := s.groups; m != nil; m = m.next {
		all = append(all, m.set.name)
	}
	slices.Sort(all)
	return all
}

// SessionState is what a session is doing.
type SessionState struct {
	// Life is "open", "fin" (the peer will ask for no more), "closing" (with Reason),
	// "lingering" (all is sent, and the peer's end is waited for), "away" (the peer may come
	// back) or "gone".
	Life   string
	Reason Reason // why it closes; 0: it does not

	// Strand is "idle", "queued" (waits for a worker), "running", "parked" (waits for the
	// peer to read) or "ended".
	Strand    string
	Main, Sub uint16 // of the packet that runs; 0/0 for another callback, or for none

	Held    int           // bytes of memory
	Partial int           // bytes of them of the beginning of a frame
	Owed    int           // answers that are owed (Session.Hold)
	Silent  time.Duration // since a whole frame was last seen, or since accept
	Stuck   time.Duration // since the kernel last took a byte of what is unsent; 0: nothing is
}

// State looks at the session on its loop, and waits for that until ctx ends: a callback may
// hold the loop up for some 20 ms. Not to be called from callbacks.
func (s *Session) State(ctx context.Context) (SessionState, error) {
	out := make(chan SessionState, 1)
	s.loop.onLoop(func(l *loop) { out <- l.state(s) })
	select {
	case st := <-out:
		return st, nil
	case <-ctx.Done():
		return SessionState{}, ctx.Err()
	case <-s.srv.quit:
		return SessionState{}, ErrClosed
	}
}

var (
	lifeNames   = [...]string{lifeOpen: "open", lifeFin: "fin", lifeLinger: "lingering", lifeGone: "gone"}
	strandNames = map[strand.State]string{strand.Idle: "idle", strand.Queued: "queued", strand.Running: "running", strand.Parked: "parked", strand.Done: "ended"}
)

// state is State on the loop's goroutine.
func (l *loop) state(s *Session) SessionState {
	rd, now := &s.rd, l.srv.now()
	st := SessionState{
		Life: lifeNames[rd.life], Reason: Reason(s.closing.Load()), Strand: strandNames[s.in.State()],
		Held: l.held(s), Partial: rd.partial.Held(), Owed: max(int(s.held.Load()), 0),
		Silent: time.Duration(now - max(rd.heard, rd.since)),
	}
	switch {
	case s.closed() && rd.life < lifeLinger:
		st.Life = "closing"
	case s.Detached() && rd.life == lifeOpen:
		st.Life = "away"
	}
	if st.Strand == "running" {
		st.Main, st.Sub = codec.Split(s.handle.Load())
	}
	if rd.progress != 0 {
		st.Stuck = time.Duration(now - rd.progress)
	}
	return st
}
