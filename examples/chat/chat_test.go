package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/codec"
	"millrace/engine"
	"millrace/services"
	"millrace/services/client"
)

var long = flag.Bool("long", false, "drive the browsers for minutes, with many restarts and cuts")

// rig is a chat on a real socket.
type rig struct {
	testing.TB
	path string
	lim  limits
	m    *services.Manager
	c    *chat
}

func newRig(t testing.TB, l limits) *rig {
	r := &rig{TB: t, path: filepath.Join(t.TempDir(), "chat.jsonl"), lim: l}
	r.start()
	t.Cleanup(r.stop)
	return r
}

func (r *rig) start() {
	r.Helper()
	s := settings{addr: "tcp://127.0.0.1:0", history: r.path, limits: r.lim}
	var err error
	if r.m, r.c, err = s.make(); err == nil {
		err = r.m.Start(context.Background())
	}
	if err != nil {
		r.Fatal(err)
	}
}

func (r *rig) stop() {
	if r.m == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := r.m.Stop(ctx); err != nil {
		r.Errorf("stop: %v", err)
	}
	r.m = nil
}

func (r *rig) context() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	r.Cleanup(cancel)
	return ctx
}

// user is a client of the chat, and what it was told.
type user struct {
	*client.Client
	r     *rig
	mu    sync.Mutex
	lines []line  // guarded by mu
	who   whoPush // guarded by mu
}

func (r *rig) dial() *user {
	r.Helper()
	cl, err := client.Dial(r.context(), client.Config{Addrs: []string{r.c.server.Addrs()[0].String()}})
	if err != nil {
		r.Fatal(err)
	}
	u := &user{Client: cl, r: r}
	r.Cleanup(cl.Close)
	cl.On(services.Handle(mainChat, subLine), func(p codec.Packet) {
		u.mu.Lock()
		defer u.mu.Unlock()
		var l line
		if err := json.Decode(p.Body, &l); err != nil {
			r.Errorf("a line: %v", err)
		}
		u.lines = append(u.lines, l)
	})
	cl.On(services.Handle(mainChat, subWho), func(p codec.Packet) {
		u.mu.Lock()
		defer u.mu.Unlock()
		if err := json.Decode(p.Body, &u.who); err != nil {
			r.Errorf("who is there: %v", err)
		}
	})
	return u
}

func ask[Req, Res any](u *user, sub uint16, req Req) (Res, error) {
	return client.Call[Req, Res](u.r.context(), u.Client, services.Handle(mainChat, sub), req)
}

func (u *user) join(room, name string, more ...func(*joinRequest)) joinReply {
	u.r.Helper()
	req := joinRequest{Room: room, Name: name}
	for _, fn := range more {
		fn(&req)
	}
	res, err := ask[joinRequest, joinReply](u, subJoin, req)
	if err != nil {
		u.r.Fatalf("join %s as %s: %v", room, name, err)
	}
	return res
}

func (u *user) say(room, text string) uint64 {
	u.r.Helper()
	res, err := ask[sayRequest, sayReply](u, subSay, sayRequest{Room: room, Text: text})
	if err != nil {
		u.r.Fatalf("say %q: %v", text, err)
	}
	return res.Seq
}

// heard waits until n lines were pushed.
func (u *user) heard(n int) []line {
	u.r.Helper()
	u.r.until(func() bool { u.mu.Lock(); defer u.mu.Unlock(); return len(u.lines) >= n }, "%d lines", n)
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.lines)
}

func (r *rig) until(ok func() bool, what string, args ...any) {
	r.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			r.Fatalf("never saw "+what, args...)
		}
	}
}

// code is that of an ERROR; 0 is none.
func code(err error) engine.ErrorCode {
	var e *client.Error
	if errors.As(err, &e) {
		return engine.ErrorCode(e.Code)
	}
	if err != nil {
		return ^engine.ErrorCode(0)
	}
	return 0
}

func texts(lines []line) (all []string) {
	for _, l := range lines {
		all = append(all, l.Text)
	}
	return all
}

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

// The commands of the README do what it says.
func TestTheREADMEsCalls(t *testing.T) {
	b, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	millrace := filepath.Join(t.TempDir(), "millrace")
	if out, err := exec.Command("go", "build", "-o", millrace, "millrace/cmd/millrace").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	s := settings{addr: "auto://127.0.0.1:0", history: filepath.Join(t.TempDir(), "h"), limits: limits{rooms: 4, lines: 50}}
	m, c, err := s.make()
	if err == nil {
		err = m.Start(context.Background())
	}
	if err != nil {
		t.Fatal(err)
	}
	defer m.Stop(context.Background())
	addr := c.server.Addrs()[0].String()
	wants := []string{`1/5 {"rooms":[]}`, `1/2 {"seq":1}`, `"text":"hello"`, `"last":1,"lines":[]`, `"who":["listener"],"count":1`}
	calls := regexp.MustCompile(`(?m)^    \./millrace call (--listen )?(\S+) (\S+)(?: '(.+)')?$`).FindAllStringSubmatch(string(b), -1)
	if len(calls) != len(wants) {
		t.Fatalf("the README has %d calls, want %d", len(calls), len(wants))
	}
	for i, call := range calls {
		args := []string{"call", strings.Replace(call[2], "127.0.0.1:7100", addr, 1), call[3]} // an answer is enough, also to one that would listen
		if call[4] != "" {
			args = append(args, call[4])
		}
		out, err := exec.Command(millrace, args...).CombinedOutput()
		if err != nil || !strings.Contains(string(out), wants[i]) {
			t.Errorf("%q: %v, %s; want %s", args, err, out, wants[i])
		}
	}
}
