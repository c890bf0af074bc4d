package engine

import (
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"time"

	"millrace/codec"
	"millrace/engine/internal/flight"
)

// Flight is a recording of a session's last events, made by Config.Recorder.
type Flight struct {
	Session     ID
	Remote      string // the peer's address
	Transport   string // see Session.Transport
	ConnectedAt time.Time
	At          time.Time // when the recording was copied
	Why         string    // cause: "stall", or the Reason of its end; "" for one that was requested
	Reason      Reason    // why the session closes or has closed; 0 while it is open
	Ended       bool      // the session has ended
	Lost        uint64    // number of earlier events, which were overwritten
	Events      []Event   // the oldest first
}

// EventKind is the kind of an Event.
type EventKind = flight.Kind

// The kinds of events.
const (
	EventOpen    = flight.Open    // the session began
	EventIn      = flight.In      // frames of one handle were read
	EventInMore  = flight.InMore  // more frames, read together with the previous ones, not recorded one by one
	EventPart    = flight.Part    // a part of a frame was read, its end perhaps with other frames
	EventInline  = flight.Inline  // packets were handled on the loop; the handle is that of the last one
	EventWork    = flight.Work    // a worker's turn
	EventOut     = flight.Out     // frames of one handle were written
	EventOutMore = flight.OutMore // more frames, written together with the previous ones, not recorded one by one
	EventBlock   = flight.Block   // the kernel accepted only a part of a write
	EventPark    = flight.Park    // the strand waits until the peer reads
	EventPause   = flight.Pause   // reading was paused
	EventResume  = flight.Resume  // reading was resumed
	EventTask    = flight.Task    // a function was submitted
	EventTimer   = flight.Timer   // a timer fired; see Session.Submitter
	EventQuery   = flight.Query   // a query completed; see Session.Submitter
	EventFin     = flight.Fin     // the peer's FIN
	EventAway    = flight.Away    // the connection was lost, and the session waits to be resumed
	EventBack    = flight.Back    // the peer has resumed the session
	EventGoAway  = flight.GoAway  // the peer was sent GOAWAY
	EventError   = flight.Error   // an ERROR was sent
	EventStall   = flight.Stall   // a callback blocks its goroutine
	EventPanic   = flight.Panic   // a callback panicked
	EventNear    = flight.Near    // a limit was nearly reached
	EventClose   = flight.Close   // the session began to close
	EventGone    = flight.Gone    // its descriptor was closed
)

// Event is a recorded event. Fields without meaning for its kind are zero.
type Event struct {
	At        time.Time // of the first one, if it stands for several; to a microsecond
	Kind      EventKind
	Main, Sub uint16        // frames, packets: their handle; EventError: that of the request
	Count     int           // number of events it stands for, at least 1
	Bytes     int           // of frames, headers included; EventBlock: bytes left
	Wait      time.Duration // EventWork: for a worker
	Took      time.Duration // EventWork, EventInline; EventStall: until then
	Running   bool          // EventWork: it is still running
	Detail    string        // reason, limit or code
}

// Flight returns the session's recording. Without Config.Recorder it has no events. Any goroutine.
func (s *Session) Flight() Flight {
	var k keptFlight
	if s.tap() == nil {
		k = keptFlight{id: s.id, remote: s.RemoteAddr(), transport: s.Transport(), accepted: s.accepted, reason: Reason(s.closing.Load()), at: s.srv.now()}
	} else {
		k.save(s, "")
	}
	return k.flight(s.srv)
}

// Flight returns the recording of a session that is open, or that has ended and whose recording is
// among those kept.
func (srv *Server) Flight(id ID) (Flight, bool) {
	if s := srv.table.lookup(id); s != nil {
		return s.Flight(), true
	}
	list := srv.Flights()
	for i := len(list) - 1; i >= 0; i-- {
		if list[i].Session == id {
			return list[i], true
		}
	}
	return Flight{}, false
}

// Flights returns the last RecorderKeep recordings kept, oldest first: of sessions when they ended,
// and of others when one of their callbacks stalled.
func (srv *Server) Flights() []Flight {
	f := &srv.flights
	f.mu.Lock()
	defer f.mu.Unlock()
	size := uint64(len(f.list))
	var list []Flight
	for i := f.n - min(f.n, size); i < f.n; i++ {
		list = append(list, f.list[i%size].flight(srv))
	}
	return list
}

// flight converts k to its exported form.
func (k *keptFlight) flight(srv *Server) Flight {
	f := Flight{
		Session: k.id, Remote: addrText(k.remote), Transport: k.transport, ConnectedAt: time.Unix(0, k.accepted),
		At: srv.clock(k.at), Why: k.why, Reason: k.reason, Ended: k.ended,
	}
	events, lost := k.events.Events(nil)
	f.Lost = lost
	for _, e := range events {
		f.Events = append(f.Events, srv.event(e))
	}
	return f
}

func addrText(a net.Addr) string {
	if a == nil {
		return ""
	}
	return a.String()
}

// event converts e to its exported form.
func (srv *Server) event(e flight.Event) Event {
	x := Event{At: srv.clock(e.At), Kind: e.Kind, Count: e.Count}
	handle := func() { x.Main, x.Sub = codec.Split(e.A) }
	micros := func(n uint32) time.Duration { return time.Duration(n) * time.Microsecond }
	millis := func(n uint32) time.Duration { return time.Duration(n) * time.Millisecond }
	switch e.Kind {
	case flight.In, flight.Out:
		handle()
		x.Bytes = int(e.B)
	case flight.InMore, flight.OutMore, flight.Part, flight.Block:
		x.Bytes = int(e.B)
	case flight.Inline:
		handle()
		x.Took = micros(e.B)
	case flight.Work:
		x.Wait = micros(e.A)
		if x.Running = e.B == flight.Running; !x.Running {
			x.Took = micros(e.B)
		}
	case flight.Pause:
		x.Detail = Pause(e.A).String()
	case flight.GoAway:
		x.Detail = "within " + millis(e.B).String()
	case flight.Error:
		handle()
		x.Detail = ErrorCode(e.B).String()
	case flight.Stall:
		handle()
		x.Took = millis(e.B)
	case flight.Panic:
		handle()
	case flight.Near:
		x.Detail = fmt.Sprintf("%v at %d %%", Limit(e.A), e.B)
	case flight.Close:
		x.Detail = Reason(e.A).String()
	}
	return x
}

// hasHandle reports whether the event's handle has a meaning.
func (e Event) hasHandle() bool {
	switch e.Kind {
	case EventIn, EventOut, EventInline, EventError, EventStall, EventPanic:
		return true
	}
	return false
}

// String formats the event as a line, without its time.
func (e Event) String() string {
	var b strings.Builder
	b.WriteString(e.Kind.String())
	if e.hasHandle() {
		fmt.Fprintf(&b, " %d/%d", e.Main, e.Sub)
	}
	if e.Count > 1 {
		fmt.Fprintf(&b, " x%d", e.Count)
	}
	switch e.Kind {
	case EventIn, EventOut, EventInMore, EventOutMore, EventPart, EventBlock:
		fmt.Fprintf(&b, ", %d bytes", e.Bytes)
	case EventInline, EventStall:
		fmt.Fprintf(&b, ", %v", e.Took)
	case EventWork:
		fmt.Fprintf(&b, " after %v", e.Wait)
		if e.Running {
			b.WriteString(", still running")
		} else {
			fmt.Fprintf(&b, ", %v", e.Took)
		}
	}
	if e.Detail != "" {
		b.WriteString(" " + e.Detail)
	}
	return b.String()
}

// String formats the recording as text: a line for the session, and one for each event, with the
// time before the end of the recording.
func (f Flight) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "session %v, %s from %s, connected at %s", f.Session, f.Transport, f.Remote, f.ConnectedAt.UTC().Format(time.RFC3339Nano))
	switch {
	case f.Why != "":
		fmt.Fprintf(&b, ": %s", f.Why)
	case f.Reason != reasonNone:
		fmt.Fprintf(&b, ": %v", f.Reason)
	}
	b.WriteByte('\n')
	if f.Lost > 0 {
		fmt.Fprintf(&b, "%14s  %d earlier events\n", "...", f.Lost)
	}
	for _, e := range f.Events {
		fmt.Fprintf(&b, "%14s  %v\n", "-"+f.At.Sub(e.At).Truncate(time.Microsecond).String(), e)
	}
	return b.String()
}

// MarshalJSON encodes the recording with names in lower case; times of turns are whole
// microseconds, and handles are "MAIN/SUB".
func (f Flight) MarshalJSON() ([]byte, error) {
	x := struct {
		Session     string    `json:"session"`
		Remote      string    `json:"addr"`
		Transport   string    `json:"transport"`
		ConnectedAt time.Time `json:"connected_at"`
		At          time.Time `json:"at"`
		Why         string    `json:"why,omitempty"`
		Reason      string    `json:"reason,omitempty"`
		Ended       bool      `json:"ended"`
		Lost        uint64    `json:"lost"`
		Events      []Event   `json:"events"`
	}{f.Session.String(), f.Remote, f.Transport, f.ConnectedAt, f.At, f.Why, "", f.Ended, f.Lost, f.Events}
	if f.Reason != reasonNone {
		x.Reason = f.Reason.String()
	}
	if x.Events == nil {
		x.Events = []Event{}
	}
	return json.Marshal(x)
}

// MarshalJSON encodes the event, without zero fields.
func (e Event) MarshalJSON() ([]byte, error) {
	x := struct {
		At      time.Time `json:"at"`
		Kind    EventKind `json:"event"`
		Handle  string    `json:"handle,omitempty"`
		Count   int       `json:"count"`
		Bytes   int       `json:"bytes,omitempty"`
		Wait    int64     `json:"wait_us,omitempty"`
		Took    int64     `json:"took_us,omitempty"`
		Running bool      `json:"running,omitempty"`
		Detail  string    `json:"detail,omitempty"`
	}{e.At, e.Kind, "", e.Count, e.Bytes, e.Wait.Microseconds(), e.Took.Microseconds(), e.Running, e.Detail}
	if e.hasHandle() {
		x.Handle = fmt.Sprintf("%d/%d", e.Main, e.Sub)
	}
	return json.Marshal(x)
}

// Submitter runs functions in a session's order.
type Submitter interface{ Submit(fn func()) error }

type (
	timers  Session
	queries Session
)

func (t *timers) Submit(fn func()) error  { return (*Session)(t).submit(fn, flight.Timer) }
func (q *queries) Submit(fn func()) error { return (*Session)(q).submit(fn, flight.Query) }

// Submitter returns the session for use by timers (EventTimer) or queries (EventQuery), so that the
// recording shows their kind. It returns the same value each time for a kind, and the session
// itself for any other.
func (s *Session) Submitter(kind EventKind) Submitter {
	switch kind {
	case EventTimer:
		return (*timers)(s)
	case EventQuery:
		return (*queries)(s)
	}
	return s
}
