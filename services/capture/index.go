package capture

import (
	"errors"
	"io"
	"time"

	"millrace/codec"
)

// Recording is what there is to play of a file: where in it stands what each session's peer
// sent, and what came back.
type Recording struct {
	Sessions []Session
	Codec    *codec.Codec
	Plain    bool          // its frames are those of codec.Default, but for the limit on their length
	Requests int           // frames that peers sent
	Answers  int           // frames that they were sent, PING and GOAWAY left out
	Length   time.Duration // from the first record to the last
	Dropped  uint64        // records that the server left out
	Cut      bool          // the file ends within a block
}

// Session is one session of a recording.
type Session struct {
	Name     string // "" where its beginning is not in the file
	pieces   []piece
	opened   time.Duration // from the recording's first record, as is closed
	closed   time.Duration
	end      ending
	requests int
	asked    map[Answer]int
	want     map[Answer]int
	answers  int
	unsure   bool // some of its answers are not in the recording, or it is cut
}

// piece is what was read of a peer at once.
type piece struct {
	at     time.Duration
	offset int64
	size   int
}

type ending uint8

const (
	endNone   ending = iota // it was still there
	endPeer                 // its peer's FIN
	endReset                // its peer's reset
	endServer               // the server closed it
)

// Index reads a whole recording. It keeps some 24 bytes for each record, and no bodies.
func Index(r io.Reader) (*Recording, error) {
	x, err := NewReader(r)
	if err != nil {
		return nil, err
	}
	rec := &Recording{Codec: x.codec, Plain: x.form.plain()}
	counts := map[int]*counts{}
	var first time.Time
	for {
		e, err := x.Next()
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			rec.Cut = !errors.Is(err, io.EOF)
			break
		}
		if err != nil {
			return nil, err
		}
		if first.IsZero() {
			first = e.At
		}
		at := max(e.At.Sub(first), 0)
		rec.Length = max(rec.Length, at)
		if e.Session == len(rec.Sessions) {
			rec.Sessions = append(rec.Sessions, Session{opened: at, closed: -1, unsure: e.Kind != Opened})
			counts[e.Session] = newCounts(rec.Codec)
		}
		if rec.Sessions[e.Session].take(e, at, counts[e.Session]) {
			rec.Sessions[e.Session].settle(rec, counts[e.Session])
			delete(counts, e.Session)
		}
	}
	for i, c := range counts {
		rec.Sessions[i].settle(rec, c)
	}
	rec.Dropped = x.Dropped()
	return rec, nil
}

// counts are a session's frames in both directions while its recording is read.
type counts struct{ in, out *counter }

func newCounts(c *codec.Codec) *counts { return &counts{newCounter(c), newCounter(c)} }

// take takes a record, and tells whether it was the session's last.
func (s *Session) take(e Record, at time.Duration, c *counts) (last bool) {
	switch e.Kind {
	case Opened:
		s.Name = e.Comment
	case FromPeer:
		if e.Gap {
			c.in.gap(e.Whole)
			s.unsure = true
		}
		if c.in.lost { // the rest of a frame whose beginning is not there
			return false
		}
		if c.in.add(e.Bytes) == nil {
			s.pieces = append(s.pieces, piece{at, e.Offset, len(e.Bytes)})
		}
	case FromServer:
		if c.out.lost || e.Gap {
			c.out.gap(e.Whole)
			s.unsure = true
		}
		if c.out.add(e.Bytes) != nil {
			s.unsure = true
		}
	case Closed:
		s.closed = at
		s.unsure = s.unsure || e.Gap
		switch {
		case e.Reset:
			s.end = endReset
		case e.Peer:
			s.end = endPeer
		default:
			s.end = endServer
		}
		return true
	}
	return false
}

// settle ends the counting of a session.
func (s *Session) settle(rec *Recording, c *counts) {
	s.requests, s.asked = c.in.frames, c.in.answer
	s.answers, s.want = c.out.frames, c.out.answer
	rec.Requests += s.requests
	rec.Answers += s.answers
}
