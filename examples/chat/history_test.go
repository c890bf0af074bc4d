package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestHistoryOutlivesTheServer(t *testing.T) {
	r := newRig(t, limits{rooms: 4, lines: 10})
	u := r.dial()
	before := u.join("tea", "Ann")
	for i := range 25 {
		u.say("tea", fmt.Sprint("line ", i))
	}
	r.stop()
	r.start()
	u = r.dial()
	after := u.join("tea", "Ann", func(q *joinRequest) { q.Log, q.After = before.Log, 3 })
	if after.Log != before.Log || after.First != 16 || after.Last != 25 || len(after.Lines) != 10 || after.Lines[0].Text != "line 15" {
		t.Errorf("got log %q, %d to %d, %q; want log %q and the last ten of 25", after.Log, after.First, after.Last, texts(after.Lines), before.Log)
	}
	if seq := u.say("tea", "goes on"); seq != 26 {
		t.Errorf("the next line is %d, want 26", seq)
	}
	got, err := ask[historyRequest, past](u, subHistory, historyRequest{Room: "tea", Log: after.Log, After: 24})
	if err != nil || !slices.Equal(texts(got.Lines), []string{"line 24", "goes on"}) {
		t.Errorf("behind 24 are %q, %v", texts(got.Lines), err)
	}
	// Numbers of another history mean nothing here.
	got, err = ask[historyRequest, past](u, subHistory, historyRequest{Room: "tea", Log: "another", After: 24})
	if err != nil || len(got.Lines) != 10 {
		t.Errorf("behind 24 of another history are %q, %v", texts(got.Lines), err)
	}
}

// The keeper's work without the keeper.
func write(c *chat, l line, log string, seen uint64) (seq uint64, err error) {
	c.write([]saying{{line: l, log: log, seen: seen, done: func(n uint64, e error) { seq, err = n, e }}})
	return seq, err
}

func TestLinesThatWereNotWrittenWereNotSaid(t *testing.T) {
	path := filepath.Join(t.TempDir(), "h")
	lim := limits{rooms: 4, lines: 50}
	c, err := newChat(path, lim)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := write(c, line{Room: "tea", Text: "one"}, "", 0); err != nil {
		t.Fatal(err)
	}
	good := c.file.f
	bad, err := os.Open(path) // can't be written to
	if err != nil {
		t.Fatal(err)
	}
	two := line{Room: "tea", Text: "two", Key: "k"}
	c.file.f = bad
	for range 2 {
		if _, err := write(c, two, c.log, 1); !errors.Is(err, errNotWritten) {
			t.Errorf("a line that can't be written: %v", err)
		}
	}
	c.file.f = good
	bad.Close()
	// Some of what could not be written is in the file.
	some := `{"room":"tea","seq":2,"text":"` + strings.Repeat("x", 300) + "\"}\n" + `{"room":"tea","seq":3,"text":"cut sho`
	if _, err := good.WriteAt([]byte(some), c.file.size); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if seq, err := write(c, two, c.log, 1); seq != 2 || err != nil {
			t.Errorf("sent again: %d, %v", seq, err)
		}
	}
	if err := c.file.close(); err != nil {
		t.Fatal(err)
	}
	again, err := newChat(path, lim)
	if err != nil {
		t.Fatal(err)
	}
	defer again.file.close()
	if got := texts(again.past("tea", "", 0).Lines); !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("the file has %q", got)
	}
}

func TestAFileThatWasCutShortGoesOn(t *testing.T) {
	for _, tail := range []string{"{", `{"room":"tea","seq":3,"text":"thr`, `{"room":"tea","seq":3,"text":"three"}`, `{"room":"tea","text":"` + strings.Repeat("x", 1000)} {
		r := newRig(t, limits{rooms: 4, lines: 50})
		u := r.dial()
		u.join("tea", "Ann")
		u.say("tea", "one")
		u.say("tea", "two")
		r.stop()
		b, err := os.ReadFile(r.path)
		if err == nil {
			err = os.WriteFile(r.path, append(b, tail...), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		r.start()
		u = r.dial()
		u.join("tea", "Ann")
		if seq := u.say("tea", "x"); seq != 3 {
			t.Errorf("the next line is %d, want 3", seq)
		}
		r.stop()
		r.start()
		if got := texts(r.dial().join("tea", "Ann").Lines); !slices.Equal(got, []string{"one", "two", "x"}) {
			t.Errorf("there are %q", got)
		}
	}
}

func TestABadFileIsNamed(t *testing.T) {
	head := `{"log":"abc"}` + "\n"
	for _, tt := range []struct{ name, text, want string }{
		{"another file", "hello\n", "line 1"},
		{"no history", "{}\n", "no history of a chat"},
		{"a broken line", head + "{\"room\":\n", "line 2"},
		{"a missing line", head + `{"room":"a","seq":1,"text":"x"}` + "\n" + `{"room":"a","seq":3,"text":"x"}` + "\n", "line 3 of room"},
		{"a line of more than a line", head + strings.Repeat("x", 70_000) + "\n", "line 2: longer"},
		{"too many rooms", head + `{"room":"a","seq":1}` + "\n" + `{"room":"b","seq":1}` + "\n", "-rooms 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "h")
			if err := os.WriteFile(path, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := newChat(path, limits{rooms: 1, lines: 10})
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want it to name %s and say %q", err, path, tt.want)
			}
			if b, _ := os.ReadFile(path); string(b) != tt.text {
				t.Error("the file was changed")
			}
		})
	}
}

func TestAFileHasOneServer(t *testing.T) {
	r := newRig(t, limits{rooms: 4, lines: 50})
	if _, err := newChat(r.path, r.lim); !errors.Is(err, errInUse) {
		t.Errorf("a second one: %v", err)
	}
}

func TestTheFileStaysSmall(t *testing.T) {
	path := filepath.Join(t.TempDir(), "h")
	lim := limits{rooms: 4, lines: 20}
	c, err := newChat(path, lim)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Repeat("x", maxText)
	const live = 20 * (maxText + 200)
	shrunk := 0
	n := 0
	for before := int64(0); shrunk < 2; n++ {
		if n > 5000 {
			t.Fatal("it only grows")
		}
		if _, err := write(c, line{Room: "tea", Name: "Ann", Text: text, Key: fmt.Sprint(n)}, c.log, uint64(n)); err != nil {
			t.Fatal(err)
		}
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if st.Size() > minCompact+3*live {
			t.Fatalf("it has %d bytes", st.Size())
		}
		if st.Size() < before {
			shrunk++
		}
		before = st.Size()
	}
	if len(c.all["tea"].keys) != 20 {
		t.Errorf("%d keys are kept, want 20", len(c.all["tea"].keys))
	}
	if _, err := newChat(path, lim); !errors.Is(err, errInUse) {
		t.Errorf("the new file is not locked: %v", err)
	}
	if err := c.file.close(); err != nil {
		t.Fatal(err)
	}
	again, err := newChat(path, lim)
	if err != nil {
		t.Fatal(err)
	}
	defer again.file.close()
	got := again.past("tea", "", 0)
	if got.Log != c.log || got.Last != uint64(n) || got.First != uint64(n-19) || len(again.all["tea"].lines) != 20 {
		t.Errorf("after a restart: %d to %d, want the last 20 of %d", got.First, got.Last, n)
	}
}
