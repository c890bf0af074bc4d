package capture

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// PlayConfig sets up Play. Zero means the default that the field's comment names.
type PlayConfig struct {
	// Dial connects to the server. It is called for each session, from several goroutines.
	// Required.
	Dial func(ctx context.Context) (net.Conn, error)
	// Speed is how many times as fast as it was recorded what is sent is sent. 0: as fast as
	// it goes, where the order among sessions is not kept.
	Speed float64
	// Sessions is how many are open at once when it goes as fast as it goes; 64.
	Sessions int
	// Wait is how long a session's answers are waited for when no more come; 5 s.
	Wait time.Duration
}

func (c PlayConfig) withDefaults() PlayConfig {
	c.Sessions = cmp.Or(c.Sessions, 64)
	c.Wait = cmp.Or(c.Wait, 5*time.Second)
	return c
}

// Report is the result of playing a recording.
type Report struct {
	Sessions    int           `json:"sessions"`
	Failed      int           `json:"failed"`     // could not be opened, or broke before all was sent
	Requests    int           `json:"requests"`   // sent
	Want        int           `json:"want"`       // answers in the recording, of the sessions that can be compared
	Got         int           `json:"got"`        // answers received by the same sessions
	Incomplete  int           `json:"incomplete"` // sessions that are not all in the recording: they are not compared
	Took        time.Duration `json:"took_ns"`
	Late        time.Duration `json:"late_ns"` // how much later than its time something was sent, at most
	Differ      int           `json:"differ"`  // sessions whose answers differ
	Differences []Difference  `json:"differences"`
	Errors      []string      `json:"errors"` // the first few
}

// Same reports whether every session was played and got the answers in the recording.
func (r *Report) Same() bool { return r.Differ == 0 && r.Failed == 0 }

// Difference is a number of answers that is another than in the recording. There is a line
// for each of the first 100; the report's Differ counts all sessions.
type Difference struct {
	Session string `json:"session"`
	Answer  string `json:"answer"`
	Want    int    `json:"want"`
	Got     int    `json:"got"`
}

const (
	maxDifferences = 100
	maxErrors      = 10
)

// Play plays a recording against a server: it opens a connection for each session, sends what
// its peer sent and closes as that did, and counts what comes back. PING, GOAWAY and the
// frames of resume are not counted. It returns when all is done, or ctx ends.
func Play(ctx context.Context, file io.ReaderAt, rec *Recording, cfg PlayConfig) (*Report, error) {
	if cfg.Dial == nil {
		return nil, errors.New("capture: PlayConfig.Dial is nil: say how to connect")
	}
	if cfg.Speed < 0 || cfg.Sessions < 0 || cfg.Wait < 0 {
		return nil, errors.New("capture: PlayConfig: Speed, Sessions and Wait must not be negative")
	}
	p := &player{cfg: cfg.withDefaults(), file: file, rec: rec, began: time.Now()}
	p.report.Differences, p.report.Errors = []Difference{}, []string{}
	places := make(chan struct{}, len(rec.Sessions)+1)
	if p.cfg.Speed == 0 {
		places = make(chan struct{}, p.cfg.Sessions)
	}
	var wg sync.WaitGroup
	for i := range rec.Sessions {
		if p.until(ctx, rec.Sessions[i].opened) != nil {
			break
		}
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			continue
		}
		wg.Add(1)
		go func() {
			defer wg.Done()
			p.session(ctx, &rec.Sessions[i])
			<-places
		}()
	}
	wg.Wait()
	p.report.Took = time.Since(p.began)
	p.report.Requests, p.report.Late = int(p.requests.Load()), time.Duration(p.late.Load())
	if err := ctx.Err(); err != nil {
		return &p.report, fmt.Errorf("capture: %w", context.Cause(ctx))
	}
	return &p.report, nil
}

type player struct {
	cfg      PlayConfig
	file     io.ReaderAt
	rec      *Recording
	began    time.Time
	requests atomic.Int64
	late     atomic.Int64

	mu     sync.Mutex
	report Report // guarded by mu
}

// until waits until it is at, as the recording counts, and notes how late it is then.
func (p *player) until(ctx context.Context, at time.Duration) error {
	if p.cfg.Speed == 0 {
		return ctx.Err()
	}
	due := p.began.Add(time.Duration(float64(at) / p.cfg.Speed))
	if d := time.Until(due); d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for late := int64(time.Since(due)); ; {
		most := p.late.Load()
		if late <= most || p.late.CompareAndSwap(most, late) {
			return ctx.Err()
		}
	}
}

// session plays one.
func (p *player) session(ctx context.Context, s *Session) {
	got, err := p.talk(ctx, s)
	p.mu.Lock()
	defer p.mu.Unlock()
	r := &p.report
	r.Sessions++
	if err != nil {
		r.Failed++
		if len(r.Errors) < maxErrors {
			r.Errors = append(r.Errors, fmt.Sprintf("%s: %v", s.Name, err))
		}
	}
	if s.incomplete {
		r.Incomplete++
		return
	}
	r.Want += s.answers
	r.Got += got.frames
	differs := false
	note := func(a Answer, want, got int) {
		if want == got {
			return
		}
		differs = true
		if len(r.Differences) < maxDifferences {
			r.Differences = append(r.Differences, Difference{s.Name, a.String(), want, got})
		}
	}
	for a, want := range s.want {
		note(a, want, got.answer[a])
	}
	for a, n := range got.answer {
		if _, ok := s.want[a]; !ok {
			note(a, 0, n)
		}
	}
	if differs {
		r.Differ++
	}
}

// talk opens the session's connection, sends, and returns what came.
func (p *player) talk(ctx context.Context, s *Session) (*counter, error) {
	got := newCounter(p.rec.Codec)
	conn, err := p.cfg.Dial(ctx)
	if err != nil {
		return got, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	in := &incoming{got: got, frames: make(chan int, 1), done: make(chan struct{})}
	go in.read(conn)
	sendErr := p.send(ctx, conn, s)
	if sendErr == nil {
		sendErr = p.finish(ctx, conn, s, in)
	}
	conn.Close()
	<-in.done
	if sendErr == nil && in.err != nil {
		sendErr = in.err
	}
	return got, sendErr
}

// send sends what the peer sent.
func (p *player) send(ctx context.Context, conn net.Conn, s *Session) error {
	var buf []byte
	for _, x := range s.pieces {
		if err := p.until(ctx, x.at); err != nil {
			return err
		}
		if cap(buf) < x.size {
			buf = make([]byte, x.size)
		}
		if _, err := p.file.ReadAt(buf[:x.size], x.offset); err != nil {
			return fmt.Errorf("the recording: %w", err)
		}
		_ = conn.SetWriteDeadline(time.Now().Add(p.cfg.Wait + 10*time.Second))
		if _, err := conn.Write(buf[:x.size]); err != nil {
			if s.end == endServer {
				return nil // it was closed by the server then, too
			}
			return err
		}
	}
	p.requests.Add(int64(s.requests))
	return nil
}

// finish ends the session as it ended, when its answers have come or are waited for no longer.
func (p *player) finish(ctx context.Context, conn net.Conn, s *Session, in *incoming) error {
	if s.end == endPeer || s.end == endReset {
		if err := p.until(ctx, s.closed); err != nil {
			return err
		}
	}
	if half, ok := conn.(interface{ CloseWrite() error }); ok && s.end == endPeer {
		_ = half.CloseWrite() // where it has gone the reader sees that
	}
	quiet := time.NewTimer(p.cfg.Wait)
	defer quiet.Stop()
	for n := 0; ; {
		if n >= s.answers && s.end != endServer && s.end != endPeer {
			return nil
		}
		select {
		case n = <-in.frames:
			quiet.Reset(p.cfg.Wait)
		case <-in.done:
			return nil
		case <-quiet.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// incoming is what comes back of a session.
type incoming struct {
	got    *counter // the reader's, until done is closed
	frames chan int // how many have come, the newest number
	done   chan struct{}
	err    error
}

// read is a goroutine.
func (in *incoming) read(conn net.Conn) {
	defer close(in.done)
	buf := make([]byte, 32<<10)
	for {
		n, err := conn.Read(buf)
		if n > 0 {
			if bad := in.got.add(buf[:n]); bad != nil {
				in.err = bad
				return
			}
			select {
			case <-in.frames:
			default:
			}
			in.frames <- in.got.frames
		}
		if err != nil {
			return // what did not come shows in the counts
		}
	}
}
