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

// Pause is why a session is not read; 0 while it is read.
type Pause uint8

const (
	PauseOutbound = Pause(inbox.PauseOut)    // MaxOutbound: too many bytes are unsent
	PausePending  = Pause(inbox.PauseIn)     // MaxPending: too many requests are waiting
	PauseMemory   = Pause(inbox.PauseBudget) // MemoryBudget
	PauseRate     = Pause(inbox.PauseRate)   // FrameRate, ByteRate or SessionCPU
)

var pauseNames = []struct {
	bit  Pause
	name string
}{{PauseOutbound, "max_outbound"}, {PausePending, "max_pending"}, {PauseMemory, "memory_budget"}, {PauseRate, "rate"}}

// Reasons returns the names of the limits in p.
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

// setPaused records why the session is not read. Loop goroutine.
func (s *Session) setPaused(why inbox.Pause) {
	s.rd.paused = why
	const all = uint32(inbox.PauseOut | inbox.PauseIn | inbox.PauseBudget | inbox.PauseRate)
	s.flags.clear((all &^ uint32(why)) * flagPaused)
	if why != 0 {
		s.flags.bits.Or(uint32(why) * flagPaused)
	}
}

func (s *Session) pausedFor() Pause { return Pause(s.flags.bits.Load() / flagPaused & 15) }

// Loop returns the number of the loop that serves the session, as in Stats.Loops.
func (s *Session) Loop() int { return s.loop.index }

// Groups returns the names of the groups that the session is in, sorted.
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

// SessionState is the current activity of a session.
type SessionState struct {
	// Life is "open", "fin" (the peer will send no more requests), "closing" (with Reason),
	// "lingering" (everything is sent, waiting for the peer's FIN), "away" (without a connection,
	// may be resumed) or "gone".
	Life   string
	Reason Reason // why it is closing; 0 if it is not

	// Strand is "idle", "queued" (waiting for a worker), "running", "parked" (waiting for the peer
	// to read) or "ended".
	Strand    string
	Main, Sub uint16 // handle of the running packet; 0/0 for another callback or none

	Held    int           // bytes of memory held
	Partial int           // bytes of that for a partial frame
	Owed    int           // pending answers (Session.Hold)
	Silent  time.Duration // since the last complete frame, or since accept
	Stuck   time.Duration // since the kernel last accepted an unsent byte; 0 if nothing is unsent
}

// State reads the session's state on its loop, and waits for that until ctx ends: a callback may
// block the loop for some 20 ms. Do not call it from callbacks.
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
		st.Stuck = time.Duration(max(now-rd.progress.time(now), 0))
	}
	return st
}
