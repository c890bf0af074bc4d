package capture

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"millrace/codec"
	"millrace/engine"
)

// Files are readable by their owner only and not larger than half of Limit. A file that existed
// before is kept if it is a recording, and not touched if it is not.
func TestFilesAreBoundedAndPrivate(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "r.pcapng")
	const limit = 512 << 10
	record(t, Config{Path: path, Limit: limit}, engine.Config{}, &handler{}, func(srv *engine.Server) {
		p := dial(t, srv, 0)
		for range 60 {
			p.ask(1, 1, strings.Repeat("x", 10_000))
		}
		p.hangUp()
	})
	for _, name := range []string{path, path + ".1"} {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 || info.Size() > limit/2+chunk+maxPayload {
			t.Errorf("%s has mode %v and %d bytes", name, info.Mode(), info.Size())
		}
		if rec, _ := index(t, name); rec.Answers == 0 || rec.Cut {
			t.Errorf("%s: %+v", name, rec)
		}
	}
	before, _ := os.ReadFile(path)
	record(t, Config{Path: path}, engine.Config{}, &handler{}, func(*engine.Server) {})
	if after, _ := os.ReadFile(path + ".1"); string(after) != string(before) {
		t.Error("the recording before was not kept")
	}
	for name, make := range map[string]func(string) error{
		"text":      func(p string) error { return os.WriteFile(p, []byte("dear diary"), 0o644) },
		"directory": func(p string) error { return os.Mkdir(p, 0o755) },
		"link":      func(p string) error { return os.Symlink(path, p) },
	} {
		other := filepath.Join(dir, name)
		if err := make(other); err != nil {
			t.Fatal(err)
		}
		if w, err := Create(Config{Path: other}); err == nil || !strings.Contains(err.Error(), "give another name") {
			t.Errorf("%s: got %v, want a refusal", name, err)
			if w != nil {
				w.Close()
			}
		}
		if _, err := os.Lstat(other + ".1"); err == nil {
			t.Errorf("%s was moved", name)
		}
	}
	other := filepath.Join(dir, "new")
	if err := os.WriteFile(other+".1", []byte("dear diary"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, there := range []string{"", path} { // with nothing in front of it, and with a recording
		if there != "" {
			if err := os.Rename(there, other); err != nil {
				t.Fatal(err)
			}
		}
		if w, err := Create(Config{Path: other}); err == nil {
			w.Close()
			t.Errorf("%s.1 was replaced, and is no recording", other)
		}
		if b, _ := os.ReadFile(other + ".1"); string(b) != "dear diary" {
			t.Errorf("%s.1 is %d bytes", other, len(b))
		}
	}
	for _, bad := range []Config{{}, {Path: path, Limit: 1}, {Path: path, Queue: 1}, {Path: path, Framing: "nonsense"}} {
		if _, err := Create(bad); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
}

// Sessions whose beginning was rotated away are played as far as they were recorded completely, and
// not compared.
func TestSessionsWithoutABeginningAreNotCompared(t *testing.T) {
	var path string
	var rec *Recording
	for range 10 { // where the writer is late, its last batch is all that is kept
		path = record(t, Config{Limit: 256 << 10}, engine.Config{}, &handler{}, func(srv *engine.Server) {
			p := dial(t, srv, 0)
			for range 60 {
				p.ask(1, 1, strings.Repeat("x", 5000))
			}
			p.hangUp()
		})
		if rec, _ = index(t, path); rec.Requests > 0 {
			break
		}
	}
	if len(rec.Sessions) != 1 || !rec.Sessions[0].incomplete || rec.Requests == 0 || rec.Requests >= 60 {
		t.Fatalf("%+v", rec)
	}
	r := play(t, path, serve(t, engine.Config{}, &handler{}), PlayConfig{})
	if !r.Same() || r.Incomplete != 1 || r.Requests != rec.Requests {
		t.Errorf("%+v", r)
	}
}

// When the queue is full, records are dropped and counted, and the recording has a gap; no session waits.
func TestAFullQueueLeavesOut(t *testing.T) {
	srv := serve(t, engine.Config{}, &handler{})
	for range 3 {
		dial(t, srv, 0).ask(1, 1, "")
	}
	var got []*engine.Session
	srv.Sessions(func(s *engine.Session) bool { got = append(got, s); return true })
	cfg := Config{Path: filepath.Join(t.TempDir(), "r"), Queue: 64 << 10, Logger: quiet}.withDefaults()
	f, err := createFile(cfg)
	if err != nil {
		t.Fatal(err)
	}
	w := &Writer{cfg: cfg, wake: make(chan struct{}, 1), next: &batch{}, file: f, streams: map[engine.ID]*stream{}}
	body := codec.Packet{Main: 1, Sub: 1, Body: make([]byte, 992)}.Append(nil)
	a, b, other := got[0], got[1], got[2]
	now := time.Now()
	w.Opened(a, now)
	w.Opened(b, now)
	kept := 0
	for range 200 {
		w.Read(a, now, body)
		if w.dropped.Load() == 0 {
			kept++
		}
	}
	w.Read(b, now, body[:8]) // nor what would fit
	w.Closed(b, now, engine.ReasonPeerClosed)
	lost := len(w.next.lost)
	for range 100 { // a whole session that is left out is not remembered
		w.Opened(other, now)
		w.Read(other, now, body)
		w.Closed(other, now, engine.ReasonPeerClosed)
	}
	if n := len(w.next.lost); n != lost {
		t.Errorf("the losses of %d sessions are remembered, want %d", n, lost)
	}
	w.dropped.Add(^uint64(300 - 1))
	if n := len(w.next.data) + len(w.next.entries)*entryCost; n > cfg.Queue || w.dropped.Load() != uint64(200-kept+2) {
		t.Errorf("%d bytes wait, %d records are left out of %d", n, w.dropped.Load(), 202-kept)
	}
	first := w.next
	w.next, w.full = &batch{}, false
	w.write(first)
	if len(w.streams) != 1 {
		t.Errorf("%d sessions are remembered, want 1: the other's end was left out", len(w.streams))
	}
	w.Read(a, now, body)
	w.Closed(a, now, engine.ReasonPeerClosed)
	w.write(w.next)
	if err := f.end(w.records.Load(), w.dropped.Load()); err != nil {
		t.Fatal(err)
	}
	file, _ := os.Open(cfg.Path)
	defer file.Close()
	r, err := NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	var gaps []bool
	for {
		e, err := r.Next()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
			break
		}
		if e.Session == 0 && e.Kind == FromPeer {
			gaps = append(gaps, e.Gap)
		}
	}
	if len(gaps) != kept+1 || slices.Index(gaps, true) != kept || r.Dropped() != w.dropped.Load() {
		t.Errorf("gaps %v, want one in front of the last of %d; %d said to be left out", gaps, kept+1, r.Dropped())
	}
}

// If a file can't be written, the recording ends and this is logged once; no session waits.
func TestAFileThatFailsEndsTheRecording(t *testing.T) {
	cfg := Config{Path: filepath.Join(t.TempDir(), "r"), Logger: quiet}
	w, err := Create(cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.file.f.Close() // nothing has been shown, so the goroutine waits
	srv := serve(t, engine.Config{Tap: w}, &handler{})
	p := dial(t, srv, 0)
	waitFor(t, "the failure", func() bool { p.ask(1, 1, "x"); return w.Stats().Err != nil })
	before := w.Stats().Dropped
	p.ask(1, 1, "y")
	waitFor(t, "the count", func() bool { return w.Stats().Dropped > before })
	if err := w.Close(); err == nil {
		t.Error("Close says nothing of it")
	}
	if err := w.Close(); err == nil {
		t.Error("nor the second time")
	}
}

// A truncated file can be read up to the point where it was cut.
func TestACutFileIsGoodUpToThere(t *testing.T) {
	path := record(t, Config{}, engine.Config{}, &handler{}, func(srv *engine.Server) { dial(t, srv, 0).ask(1, 1, "x") })
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head := len(appendHead(nil, Config{run: strings.Repeat("x", 10)}.withDefaults().form()))
	for n := range whole {
		rec, err := Index(strings.NewReader(string(whole[:n])))
		if err != nil {
			if n >= head || !errors.Is(err, ErrFormat) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("%d of %d bytes: %v", n, len(whole), err)
			}
			continue
		}
		if len(rec.Sessions) > 1 || rec.Answers > 1 {
			t.Fatalf("%d of %d bytes: %+v", n, len(whole), rec)
		}
	}
	for text, want := range map[string]string{"": "it is empty", "dear diary, today": "pcapng"} {
		if _, err := Index(strings.NewReader(text)); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v", text, err)
		}
	}
	if _, err := Index(strings.NewReader(strings.Replace(string(whole), application, "wireshar", 1))); !errors.Is(err, ErrFormat) {
		t.Errorf("another program's file: %v", err)
	}
}

func ExampleCreate() {
	dir, _ := os.MkdirTemp("", "")
	defer os.RemoveAll(dir)
	w, err := Create(Config{Path: filepath.Join(dir, "traffic.pcapng")})
	if err != nil {
		fmt.Println(err)
		return
	}
	srv, err := engine.New(engine.Config{Addrs: []string{"tcp://127.0.0.1:0"}, Tap: w}, &handler{})
	fmt.Println(srv != nil, err, w.Close())
	// Output: true <nil> <nil>
}
