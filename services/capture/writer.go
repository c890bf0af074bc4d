package capture

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"millrace/codec"
	"millrace/engine"
)

// Config sets up a Writer. Zero means the default that the field's comment names.
type Config struct {
	Path  string // the file; the previous one is kept as Path.1. Required
	Limit int64  // bytes of both files together; 256 MiB, at least 256 KiB
	Queue int    // bytes that may wait to be written; 8 MiB, at least 64 KiB

	// How the server's frames are told apart, which a reader of the file has to know.
	Framing  string // as codec.ParseFramer takes it; "length"
	Layout   codec.Layout
	MaxFrame int // the codec's default

	Logger *slog.Logger // for the error when the file can't be written any more; slog.Default()

	run string // names the Writer in its files
}

func (c Config) withDefaults() Config {
	c.Limit = cmp.Or(c.Limit, 256<<20)
	c.Queue = cmp.Or(c.Queue, 8<<20)
	c.Framing = cmp.Or(c.Framing, "length")
	c.MaxFrame = cmp.Or(c.MaxFrame, codec.DefaultMaxFrame)
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

func (c Config) validate() error {
	var errs []error
	if c.Path == "" {
		errs = append(errs, errors.New("capture: Path is empty: name a file"))
	}
	if c.Limit < 256<<10 {
		errs = append(errs, fmt.Errorf("capture: Limit = %d: must be at least 256 KiB", c.Limit))
	}
	if c.Queue < 64<<10 {
		errs = append(errs, fmt.Errorf("capture: Queue = %d: must be at least 64 KiB", c.Queue))
	}
	if _, err := c.form().codec(); err != nil {
		errs = append(errs, fmt.Errorf("capture: %w", err))
	}
	return errors.Join(errs...)
}

func (c Config) form() form { return form{1, c.Framing, c.Layout, c.MaxFrame, c.run} }

// Stats counts what a Writer has recorded and left out. Counters only grow.
type Stats struct {
	Records uint64 // written: a session's beginning or end, or what was read or written at once
	Bytes   uint64 // bytes of frames written
	Dropped uint64 // records left out, because the queue was full or the file can't be written
	Files   uint64 // files created
	Err     error  // why nothing is written any more
}

// Writer records sessions in a file. It is an engine.Tap: any goroutine may call its methods.
type Writer struct {
	cfg  Config
	wake chan struct{}
	quit chan struct{}
	done chan struct{}
	end  sync.Once

	records, bytes, dropped, files atomic.Uint64

	mu   sync.Mutex
	next *batch // guarded by mu; what waits
	full bool   // guarded by mu; something was left out since next was begun
	err  error  // guarded by mu; nothing is taken any more

	// The writer's goroutine only.
	file    *file
	buf     []byte
	streams map[engine.ID]*stream
}

var _ engine.Tap = (*Writer)(nil)

// batch is what is written together.
type batch struct {
	entries []entry
	data    []byte
	lost    map[engine.ID]*loss // what was left out after the last of entries
}

// loss is what was left out of one session. There is one for each open session, and each that
// has closed and whose beginning is in the file, at most.
type loss struct {
	bytes  [2]uint32 // fromPeer and fromServer
	opened bool      // its beginning was left out
	closed bool
}

// entry is a record in a batch.
type entry struct {
	s     *engine.Session
	at    time.Time
	what  what
	whole bool // it begins with a frame
	why   engine.Reason
	size  int // of data, in the order of the entries
}

type what uint8

const (
	fromPeer what = iota
	fromServer
	opened
	closed
)

// entryCost is what an entry takes in the queue beside its bytes.
const entryCost = 80

// Create creates the file, readable by its owner only, and starts the goroutine that writes it.
// An existing recording becomes Path.1. A file at Path or Path.1 that is no recording is an error.
func Create(cfg Config) (*Writer, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	cfg.run = rand.Text()[:10]
	f, err := createFile(cfg)
	if err != nil {
		return nil, err
	}
	w := &Writer{
		cfg: cfg, wake: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{}),
		next: &batch{}, file: f, streams: map[engine.ID]*stream{},
	}
	w.files.Store(1)
	go w.run()
	return w, nil
}

// Opened, Read, Wrote and Closed implement engine.Tap. They never block, and copy the bytes they
// keep.
func (w *Writer) Opened(s *engine.Session, at time.Time) {
	w.put(entry{s: s, at: at, what: opened}, nil)
}

func (w *Writer) Read(s *engine.Session, at time.Time, frames []byte) {
	w.put(entry{s: s, at: at, what: fromPeer, whole: true}, frames)
}

func (w *Writer) Wrote(s *engine.Session, at time.Time, b []byte, cut int) {
	if cut > 0 {
		w.put(entry{s: s, at: at, what: fromServer}, b[:cut])
		b = b[cut:]
	}
	if len(b) > 0 {
		w.put(entry{s: s, at: at, what: fromServer, whole: true}, b)
	}
}

func (w *Writer) Closed(s *engine.Session, at time.Time, why engine.Reason) {
	w.put(entry{s: s, at: at, what: closed, why: why}, nil)
}

// put queues a record, or leaves it out. After one was left out, all are until the writer has taken
// the queue, so everything that is missing comes after everything queued.
func (w *Writer) put(e entry, b []byte) {
	e.size = len(b)
	w.mu.Lock()
	n := w.next
	if w.full || w.err != nil || len(n.data)+len(b)+(len(n.entries)+1)*entryCost > w.cfg.Queue {
		w.full = true
		if w.err == nil {
			n.leaveOut(e)
		}
		w.mu.Unlock()
		w.dropped.Add(1)
		return
	}
	n.entries = append(n.entries, e)
	n.data = append(n.data, b...)
	first := len(n.entries) == 1
	w.mu.Unlock()
	if first {
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// leaveOut notes a record that is left out.
func (b *batch) leaveOut(e entry) {
	if b.lost == nil {
		b.lost = map[engine.ID]*loss{}
	}
	x := b.lost[e.s.ID()]
	if x == nil {
		x = &loss{}
		b.lost[e.s.ID()] = x
	}
	switch e.what {
	case opened:
		x.opened = true
	case fromPeer, fromServer:
		x.bytes[e.what] += uint32(e.size)
	case closed:
		if x.closed = true; x.opened { // nothing of it is in the file
			delete(b.lost, e.s.ID())
		}
	}
}

// Stats returns a snapshot.
func (w *Writer) Stats() Stats {
	w.mu.Lock()
	err := w.err
	w.mu.Unlock()
	return Stats{Records: w.records.Load(), Bytes: w.bytes.Load(), Dropped: w.dropped.Load(), Files: w.files.Load(), Err: err}
}

// Close writes what is queued and ends the file. It returns the error that ended the recording, if
// any. It may be called twice. Records that come afterwards are left out.
func (w *Writer) Close() error {
	w.end.Do(func() { close(w.quit) })
	<-w.done
	w.mu.Lock()
	defer w.mu.Unlock()
	if errors.Is(w.err, errClosed) {
		return nil
	}
	return w.err
}

var errClosed = errors.New("capture: closed")

// run is the writer's goroutine.
func (w *Writer) run() {
	defer close(w.done)
	spare := &batch{}
	for ended := false; !ended; {
		select {
		case <-w.wake:
		case <-w.quit:
			ended = true
		}
		w.mu.Lock()
		b := w.next
		w.next, w.full = spare, false
		if ended && w.err == nil {
			w.err = errClosed
		}
		w.mu.Unlock()
		w.write(b)
		clear(b.entries)
		b.entries, b.data, b.lost = b.entries[:0], b.data[:0], nil
		spare = b
	}
	if err := w.file.end(w.records.Load(), w.dropped.Load()); err != nil {
		w.fail(err)
	}
}

// fail ends the recording.
func (w *Writer) fail(err error) {
	w.mu.Lock()
	first := w.err == nil || errors.Is(w.err, errClosed)
	if first {
		w.err = err
	}
	w.mu.Unlock()
	if first {
		w.cfg.Logger.Error("capture: recording has ended, as the file can't be written: free disk space or give another file, and restart", "file", w.cfg.Path, "err", err)
	}
}

// chunk is about how many bytes are written to the file at once. A file exceeds half of Limit by
// less than a chunk and a packet.
const chunk = 64 << 10

// write writes a batch.
func (w *Writer) write(b *batch) {
	data := b.data
	for _, e := range b.entries {
		w.encode(e, data[:e.size])
		data = data[e.size:]
		w.records.Add(1)
		w.bytes.Add(uint64(e.size))
	}
	for id, x := range b.lost {
		st := w.streams[id]
		if st == nil {
			continue
		}
		st.seq[fromPeer] += x.bytes[fromPeer]
		st.seq[fromServer] += x.bytes[fromServer]
		if x.closed {
			delete(w.streams, id)
		}
	}
	w.flush()
}

// flushFull flushes if a chunk or more is encoded.
func (w *Writer) flushFull() {
	if len(w.buf) >= chunk {
		w.flush()
	}
}

// flush writes the encoded packets to the file, or to a new one if they don't fit.
func (w *Writer) flush() {
	b := w.buf
	w.buf = w.buf[:0]
	if len(b) == 0 || w.file.broken {
		return
	}
	err := error(nil)
	if w.file.size+int64(len(b)) > w.cfg.Limit/2 {
		if err = w.file.rotate(w.records.Load(), w.dropped.Load()); err == nil {
			w.files.Add(1)
		}
	}
	if err == nil {
		err = w.file.write(b)
	}
	if err != nil {
		w.file.broken = true
		w.fail(err)
	}
}
