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
	Cut      bool          // a file ends within a block
}

// Session is one session of a recording.
type Session struct {
	Name       string // "" where its beginning is not in the file
	pieces     []piece
	opened     time.Duration // from the recording's first record, as is closed
	closed     time.Duration
	end        ending
	requests   int
	asked      map[Answer]int
	want       map[Answer]int
	answers    int
	incomplete bool // some of its answers are not in the recording, or it is cut
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

// Index reads a whole recording of one file. It keeps some 24 bytes for each record, and no
// bodies. For several files see Set.
func Index(r io.Reader) (*Recording, error) {
	x, err := NewReader(r)
	if err != nil {
		return nil, err
	}
	in := newIndexer(x)
	if _, _, err := in.read(); err != nil {
		return nil, err
	}
	return in.end(), nil
}

// indexer makes a Recording of what a Reader reads.
type indexer struct {
	x      *Reader
	rec    *Recording
	counts map[int]*counts // of the sessions that have not ended
	first  time.Time
}

func newIndexer(x *Reader) *indexer {
	return &indexer{x: x, rec: &Recording{Codec: x.codec, Plain: x.form.plain()}, counts: map[int]*counts{}}
}

// read reads a file to its end. It returns the times of its first record and its newest one.
func (in *indexer) read() (first, newest time.Time, err error) {
	rec := in.rec
	for {
		e, err := in.x.Next()
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			rec.Cut = rec.Cut || !errors.Is(err, io.EOF)
			return first, newest, nil
		}
		if err != nil {
			return first, newest, err
		}
		if first.IsZero() {
			first = e.At
		}
		if e.At.After(newest) {
			newest = e.At
		}
		if in.first.IsZero() {
			in.first = e.At
		}
		at := max(e.At.Sub(in.first), 0)
		rec.Length = max(rec.Length, at)
		if e.Session == len(rec.Sessions) {
			rec.Sessions = append(rec.Sessions, Session{opened: at, closed: -1, incomplete: e.Kind != Opened})
			in.counts[e.Session] = newCounts(rec.Codec)
		}
		if rec.Sessions[e.Session].take(e, at, in.counts[e.Session]) {
			rec.Sessions[e.Session].settle(rec, in.counts[e.Session])
			delete(in.counts, e.Session)
		}
	}
}

// end is all that was read.
func (in *indexer) end() *Recording {
	for i, c := range in.counts {
		in.rec.Sessions[i].settle(in.rec, c)
	}
	in.rec.Dropped = in.x.Dropped()
	return in.rec
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
			s.incomplete = true
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
			s.incomplete = true
		}
		if c.out.add(e.Bytes) != nil {
			s.incomplete = true
		}
	case Closed:
		s.closed = at
		s.incomplete = s.incomplete || e.Gap
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
