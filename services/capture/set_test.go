package capture

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"millrace/codec"
	"millrace/engine"
)

// openSet opens one for a test.
func openSet(t testing.TB, paths ...string) *Set {
	t.Helper()
	s, err := OpenSet(paths...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// indexSet is what a set has.
func indexSet(t testing.TB, paths ...string) (*Recording, *Set) {
	t.Helper()
	s := openSet(t, paths...)
	rec, err := s.Index()
	if err != nil {
		t.Fatal(err)
	}
	return rec, s
}

// A rotated recording is one: in whatever order its files are named, also as a folder, no
// session is cut at the end of a file, and all of it plays with the answers that it had.
func TestARotatedRecordingIsOne(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "r.pcapng")
	const long, short, each = 2, 10, 25
	record(t, Config{Path: path, Limit: 1 << 20}, engine.Config{}, &handler{}, func(srv *engine.Server) {
		var all []*peer
		for range long {
			all = append(all, dial(t, srv, 0))
		}
		for i := range each {
			for _, p := range all { // sessions that both files have a part of
				p.ask(1, 1, strings.Repeat("x", 6000))
			}
			if i%2 == 0 && i/2 < short {
				p := dial(t, srv, 0)
				p.ask(1, 2, "short")
				p.hangUp()
			}
		}
		for _, p := range all {
			p.hangUp()
		}
	})
	if err := os.WriteFile(filepath.Join(dir, "notes.txt"), []byte("not a recording"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "below"), 0o700); err != nil {
		t.Fatal(err)
	}
	one, _ := index(t, path)
	if !slices.ContainsFunc(one.Sessions, func(s Session) bool { return s.incomplete }) {
		t.Fatal("the second file alone has all of its sessions: there is nothing to test")
	}
	srv := serve(t, engine.Config{}, &handler{})
	for name, paths := range map[string][]string{
		"in order": {path + ".1", path}, "turned": {path, path + ".1"}, "a folder": {dir}, "both": {dir, path, dir},
	} {
		rec, set := indexSet(t, paths...)
		if len(rec.Sessions) != long+short || rec.Requests != each*long+short || rec.Answers != rec.Requests || rec.Cut || rec.Dropped != 0 {
			t.Errorf("%s: %d sessions, %d requests, %d answers: %+v", name, len(rec.Sessions), rec.Requests, rec.Answers, rec.Cut)
		}
		for _, s := range rec.Sessions {
			if s.incomplete || s.end != endPeer || s.Name == "" {
				t.Errorf("%s: %q is cut", name, s.Name)
			}
		}
		if want := []string{path + ".1", path}; !slices.Equal(set.Files(), want) {
			t.Errorf("%s: read as %v, want %v", name, set.Files(), want)
		}
		if name == "a folder" && set.Left() != 2 {
			t.Errorf("%d files left out, want 2", set.Left())
		}
		r, err := Play(t.Context(), set, rec, PlayConfig{Dial: dialer(srv), Speed: 0})
		if err != nil || !r.Same() || r.Incomplete != 0 || r.Requests != each*long+short || r.Got != r.Want {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
		if lists, err := rec.Scripts(set); err != nil || len(lists) != long+short {
			t.Errorf("%s: %d lists of requests, %v", name, len(lists), err)
		}
	}
}

// Two runs of a server are one recording too: who was there at the end of the first does not
// go on in the second, and what both left out is added up.
func TestRunsAreToldApart(t *testing.T) {
	dir := t.TempDir()
	at := time.Unix(1_700_000_000, 0)
	frame := codec.Packet{Main: 1, Sub: 1, Body: []byte("hello")}.Append(nil)
	a, b := netip.MustParseAddrPort("192.0.2.1:1234"), netip.MustParseAddrPort("192.0.2.2:7000")
	write := func(name, run string, at time.Time, dropped uint64, syn bool) string {
		f := appendHead(nil, form{1, "length", codec.Layout{}, codec.DefaultMaxFrame, run})
		seq := uint32(1)
		if syn {
			f = appendPacket(f, at, true, packet{from: a, to: b, flags: flagSYN}, "session 1.1")
		} else {
			seq += uint32(len(frame))
		}
		f = appendPacket(f, at, true, packet{from: a, to: b, seq: seq, ack: 1, flags: flagACK | flagPSH, payload: frame}, "")
		f = appendStats(f, at, 2, dropped)
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, f, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	first := write("first", "run a", at, 3, true)
	second := write("second", "run a", at.Add(time.Minute), 5, false)
	other := write("other", "run b", at.Add(time.Hour), 5, true)
	headless := write("headless", "run c", at.Add(2*time.Hour), 1, false)
	for _, x := range []struct {
		paths              []string
		sessions, requests int
		dropped            uint64
		length             time.Duration
	}{
		{[]string{first}, 1, 1, 3, 0},
		{[]string{second, first}, 1, 2, 5, time.Minute}, // the same session, and counters that go on
		{[]string{other, first}, 2, 2, 8, time.Hour},
		{[]string{dir}, 3, 4, 11, 2 * time.Hour},
		{[]string{headless, other}, 2, 2, 6, time.Hour},
	} {
		rec, _ := indexSet(t, x.paths...)
		if len(rec.Sessions) != x.sessions || rec.Requests != x.requests || rec.Dropped != x.dropped || rec.Length != x.length {
			t.Errorf("%v: %d sessions, %d requests, %d left out, over %v; want %+v", x.paths, len(rec.Sessions), rec.Requests, rec.Dropped, rec.Length, x)
		}
	}
}

// Files that don't belong to one recording are refused, with the name of the file.
func TestSetsThatAreNone(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, b, 0o600)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := sample()
	narrow := bytes.Replace(good, []byte(`"max_frame":65536`), []byte(`"max_frame":65535`), 1)
	if bytes.Equal(narrow, good) {
		t.Fatal("the sample has no such form")
	}
	file, other := write("a", good), write("narrow/c", narrow)
	notes, broken := write("notes/text", []byte("dear diary")), write("broken/d", append(bytes.Clone(good[:200]), make([]byte, 64)...))
	for _, x := range []struct {
		paths []string
		want  string
	}{
		{nil, "no files"},
		{[]string{file, filepath.Join(dir, "none")}, "no such file"},
		{[]string{notes}, "text: capture: not a recording"},
		{[]string{filepath.Dir(notes)}, "no file in it is one"},
		{[]string{filepath.Dir(broken)}, "d: capture: not a recording"},
		{[]string{file, other}, "framing differs"},
	} {
		s, err := OpenSet(x.paths...)
		if err == nil {
			_, err = s.Index()
			s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%v: got %v, want %q", x.paths, err, x.want)
		}
	}
	// A second later and a second before the other's end, it is another server's.
	late := func(name string, d time.Duration) string {
		f := appendHead(nil, form{1, "length", codec.Layout{}, codec.DefaultMaxFrame, ""})
		a, b := netip.MustParseAddrPort("192.0.2.7:1234"), netip.MustParseAddrPort("192.0.2.2:7000")
		for i := range 4 {
			f = appendPacket(f, time.Unix(1_700_000_000, 0).Add(d+time.Duration(i)*time.Second), true, packet{from: a, to: b, seq: uint32(i), flags: flagSYN}, fmt.Sprint("session ", i))
		}
		return write(name, f)
	}
	long, inside, behind := late("long", 0), late("inside", time.Second), late("behind", 3*time.Second)
	if _, err := openSet(t, inside, long).Index(); err == nil || !strings.Contains(err.Error(), "begins before "+long+" ends") {
		t.Errorf("files that overlap: %v", err)
	}
	if rec, _ := indexSet(t, behind, long); len(rec.Sessions) != 8 {
		t.Errorf("files one behind the other: %d sessions, want 8", len(rec.Sessions))
	}
}

// A set is read as the concatenation of its files.
func TestASetIsReadAsOneFile(t *testing.T) {
	dir := t.TempDir()
	var paths []string
	for i := range 5 {
		f := appendHead(nil, form{1, "length", codec.Layout{}, codec.DefaultMaxFrame, ""})
		f = appendPacket(f, time.Unix(int64(1000+i), 0), true, packet{from: netip.MustParseAddrPort("192.0.2.1:1"), to: netip.MustParseAddrPort("192.0.2.2:2"), flags: flagSYN, payload: bytes.Repeat([]byte{byte(i)}, 10*i)}, "")
		path := filepath.Join(dir, fmt.Sprint(9-i))
		if err := os.WriteFile(path, f, 0o600); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	s := openSet(t, dir)
	var all []byte
	for _, p := range paths {
		b, _ := os.ReadFile(p)
		all = append(all, b...)
	}
	whole := bytes.NewReader(all)
	rapid.Check(t, func(t *rapid.T) {
		off, n := rapid.IntRange(0, len(all)+20).Draw(t, "offset"), rapid.IntRange(0, len(all)+20).Draw(t, "bytes")
		want, got := make([]byte, n), make([]byte, n)
		wantN, wantErr := whole.ReadAt(want, int64(off))
		gotN, gotErr := s.ReadAt(got, int64(off))
		if n == 0 {
			wantErr, gotErr = nil, nil // either is right
		}
		if gotN != wantN || gotErr != wantErr || !bytes.Equal(got[:gotN], want[:wantN]) {
			t.Fatalf("%d bytes at %d: got %d, %v, want %d, %v", n, off, gotN, gotErr, wantN, wantErr)
		}
	})
	if _, err := s.ReadAt(make([]byte, 1), -1); err == nil || err == io.EOF {
		t.Errorf("at -1: %v", err)
	}
}
