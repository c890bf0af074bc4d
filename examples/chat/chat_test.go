package main

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"millrace/engine"
	"millrace/services"
)

func TestAllWhoTalkAtOnceHearTheSame(t *testing.T) {
	r := newRig(t, limits{rooms: 4, lines: 1000})
	const users, each = 8, 40
	var all []*user
	for i := range users {
		u := r.dial()
		u.join("tea", fmt.Sprint("user ", i))
		all = append(all, u)
	}
	var wg sync.WaitGroup
	for i, u := range all {
		wg.Go(func() {
			for n := range each {
				u.say("tea", fmt.Sprintf("%d of %d", n, i))
			}
		})
	}
	wg.Wait()
	first := all[0].heard(users * each)
	for i, l := range first {
		if l.Seq != uint64(i+1) {
			t.Fatalf("line %d has number %d", i, l.Seq)
		}
	}
	for i, u := range all[1:] {
		if got := u.heard(users * each); !slices.Equal(got, first) {
			t.Errorf("user %d heard other lines, or in another order", i+1)
		}
	}
	// And each its own in the order in which they were said.
	for i := range users {
		n := 0
		for _, l := range first {
			if l.Name == fmt.Sprint("user ", i) {
				if want := fmt.Sprintf("%d of %d", n, i); l.Text != want {
					t.Fatalf("heard %q, want %q", l.Text, want)
				}
				n++
			}
		}
		if n != each {
			t.Errorf("heard %d lines of user %d, want %d", n, i, each)
		}
	}
	other := r.dial()
	other.join("coffee", "x")
	r.until(func() bool { other.mu.Lock(); defer other.mu.Unlock(); return other.who.Count == 1 }, "who is there")
	if got := other.heard(0); len(got) != 0 {
		t.Errorf("heard %d lines of another room", len(got))
	}
}

func TestALineThatIsSentAgainIsSaidOnce(t *testing.T) {
	r := newRig(t, limits{rooms: 4, lines: 5})
	u := r.dial()
	in := u.join("tea", "Ann")
	say := func(key string, seen uint64) (uint64, engine.ErrorCode) {
		res, err := ask[sayRequest, sayReply](u, subSay, sayRequest{Room: "tea", Text: "text of " + key, Key: key, Log: in.Log, Seen: seen})
		return res.Seq, code(err)
	}
	check := func(what string, seq, wantSeq uint64, c, wantCode engine.ErrorCode) {
		t.Helper()
		if seq != wantSeq || c != wantCode {
			t.Errorf("%s: got %d, %v, want %d, %v", what, seq, c, wantSeq, wantCode)
		}
	}
	seq, c := say("a", 0)
	check("first", seq, 1, c, 0)
	seq, c = say("a", 0)
	check("again", seq, 1, c, 0)
	r.stop()
	r.start()
	u = r.dial()
	u.join("tea", "Ann")
	seq, c = say("a", 0)
	check("again after a restart", seq, 1, c, 0)
	// Many at once: the keeper may find several of a key in one batch.
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			seq, c := say("b", 1)
			check("at once", seq, 2, c, 0)
		})
	}
	wg.Wait()
	for i := range 5 {
		u.say("tea", fmt.Sprint("more ", i))
	}
	// The room has 3 to 7 now. What was first sent behind 1 may have been said as 2.
	seq, c = say("b", 1)
	check("long after", seq, 0, c, engine.CodeConflict)
	seq, c = say("c", 2)
	check("a new one that is old", seq, 8, c, 0)
	in.Log = "another"
	seq, c = say("d", 8)
	check("of another history", seq, 0, c, engine.CodeConflict)
}

func TestWhoIsThere(t *testing.T) {
	r := newRig(t, limits{rooms: 4, lines: 50})
	ann, ben := r.dial(), r.dial()
	id := func(id string) func(*joinRequest) { return func(q *joinRequest) { q.ID = id } }
	ann.join("tea", "Ann", id("1"))
	if in := ben.join("tea", "Ben"); !slices.Equal(in.Who, []string{"Ann", "Ben"}) || in.Count != 2 {
		t.Errorf("there are %q", in.Who)
	}
	sees := func(u *user, names ...string) {
		t.Helper()
		r.until(func() bool { u.mu.Lock(); defer u.mu.Unlock(); return slices.Equal(u.who.Names, names) }, "%q", names)
	}
	sees(ann, "Ann", "Ben")
	_, err := ask[joinRequest, joinReply](ben, subJoin, joinRequest{Room: "tea", Name: "ANN"})
	if code(err) != engine.CodeConflict {
		t.Errorf("Ben as ANN: %v", err)
	}
	_, err = ask[sayRequest, sayReply](r.dial(), subSay, sayRequest{Room: "tea", Name: "Ann", Text: "it is me"})
	if code(err) != engine.CodeConflict {
		t.Errorf("a stranger as Ann: %v", err)
	}
	// Ann again, while her first connection hangs: it is the same Ann.
	again := r.dial()
	again.join("tea", "Ann", id("1"))
	sees(ben, "Ann", "Ben")
	ann.Close()
	again.join("tea", "Anna", id("1"))
	sees(ben, "Anna", "Ben")
	if _, err := ask[leaveRequest, leaveReply](again, subLeave, leaveRequest{"tea"}); err != nil {
		t.Error(err)
	}
	sees(ben, "Ben")
	again.mu.Lock()
	again.lines = nil
	again.mu.Unlock()
	ben.say("tea", "alone")
	again.join("coffee", "Anna")
	ben.Close()
	r.until(func() bool {
		got, err := ask[services.None, roomsReply](again, subRooms, services.None{})
		return err == nil && slices.Equal(got.Rooms, []roomInfo{{"coffee", 1, 0}, {"tea", 0, 1}})
	}, "the rooms as they are")
	if got := again.heard(0); len(got) != 0 {
		t.Errorf("heard %q after leaving", texts(got))
	}
}

func TestLimits(t *testing.T) {
	r := newRig(t, limits{rooms: 2, lines: 50})
	u := r.dial()
	u.join("one", "Ann")
	u.join("two", "Ann")
	_, err := ask[joinRequest, joinReply](u, subJoin, joinRequest{Room: "three", Name: "Ann"})
	if code(err) != engine.CodeLimit {
		t.Errorf("a third room: %v", err)
	}
	if _, err := ask[leaveRequest, leaveReply](u, subLeave, leaveRequest{"two"}); err != nil {
		t.Error(err)
	}
	// A room that is empty and of which nothing is kept makes room.
	r.until(func() bool {
		_, err := ask[joinRequest, joinReply](u, subJoin, joinRequest{Room: "three", Name: "Ann"})
		return err == nil
	}, "room for a third one")

	for _, tt := range []struct {
		name string
		req  sayRequest
		want engine.ErrorCode
	}{
		{"no text", sayRequest{Room: "one", Text: " \n "}, engine.CodeBadBody},
		{"the longest", sayRequest{Room: "one", Text: strings.Repeat("x", maxText)}, 0},
		{"too long", sayRequest{Room: "one", Text: strings.Repeat("x", maxText+1)}, engine.CodeBadBody},
		{"control characters", sayRequest{Room: "one", Text: "\x1b[2J"}, engine.CodeBadBody},
		{"two lines", sayRequest{Room: "one", Text: "a\n\tb"}, 0},
		{"markup is text", sayRequest{Room: "one", Text: "<script>alert(1)</script>"}, 0},
		{"not joined", sayRequest{Room: "elsewhere", Text: "x"}, engine.CodeUnauthorised},
		{"no room", sayRequest{Text: "x", Name: "x"}, engine.CodeBadBody},
		{"a room too many", sayRequest{Room: "four", Text: "x", Name: "x"}, engine.CodeLimit},
		{"a name that hides", sayRequest{Room: "one", Text: "x", Name: "a\u202eb"}, engine.CodeBadBody},
		{"a name of spaces", sayRequest{Room: "one", Text: "x", Name: "  "}, engine.CodeBadBody},
		{"a long name", sayRequest{Room: "one", Text: "x", Name: strings.Repeat("é", maxName+1)}, engine.CodeBadBody},
		{"a long key", sayRequest{Room: "one", Text: "x", Key: strings.Repeat("k", maxID+1)}, engine.CodeBadBody},
	} {
		if _, err := ask[sayRequest, sayReply](u, subSay, tt.req); code(err) != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, err, tt.want)
		}
	}

	// A whole room of the longest lines, whose characters take two in JSON, comes
	// in answers that fit a frame.
	for range 50 {
		u.say("one", strings.Repeat(`"`, maxText))
	}
	n := 0
	for after := uint64(0); ; {
		got, err := ask[historyRequest, past](u, subHistory, historyRequest{Room: "one", After: after})
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Lines) == 0 {
			break
		}
		n += len(got.Lines)
		after = got.Lines[len(got.Lines)-1].Seq
	}
	if n != 50 {
		t.Errorf("the history has %d lines, want 50", n)
	}

	flood := r.dial()
	flood.join("one", "Flo")
	for i := range burst + 100 {
		_, err := ask[sayRequest, sayReply](flood, subSay, sayRequest{Room: "one", Text: "x"})
		if code(err) == engine.CodeLimit {
			if i < burst {
				t.Errorf("refused after %d lines, want %d at least", i, burst)
			}
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
	t.Error("a flood was taken")
}
