package nodes_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"
	"time"

	"millrace/codec"
	"millrace/engine"
	"millrace/internal/proctest"
	"millrace/services"
)

// A session comes with its whole state and all of its frames, also where these take several messages: those
// that wait when the move begins, and those that are sent meanwhile.
func TestSessionOfManyMessagesComesWhole(t *testing.T) {
	const before, meanwhile, size = 20, 70, 10 << 10 // the frames; a message has up to 256 KiB
	url := servers(t)
	large := func(s *settings) { s.TakeoverBytes, s.TakeoverTimeout = 4<<20, patience }
	state := bytes.Repeat([]byte("state "), 100<<10)
	na, a := startMoving(t, url, "a", &given{most: 4 << 20, state: state}, large)
	hb := &given{most: 4 << 20, state: state}
	nb, b := startMoving(t, url, "b", hb, large)
	na.knows("a=up b=up")
	nb.knows("a=up b=up")
	token, _ := hello(t, a, nil)
	s := onlySession(a)
	sent := uint32(0)
	push := func(n int) {
		for range n {
			if err := s.Push(1, 1, binary.BigEndian.AppendUint32(make([]byte, size), sent)); err != nil {
				t.Error(err)
			}
			sent++
		}
	}
	push(before)
	hb.come = func() { push(meanwhile) }
	_, resumed, _, r := helloes(t, b, token)
	if !resumed {
		t.Fatalf("not resumed: %v", nb.Stats().NotTaken)
	}
	for i := range uint32(before + meanwhile) {
		p, err := r.Next()
		if err != nil || p.Main != 1 || len(p.Body) != size+4 || binary.BigEndian.Uint32(p.Body[size:]) != i {
			t.Fatalf("frame %d: got %d/%d with %d bytes, %v", i, p.Main, p.Sub, len(p.Body), err)
		}
	}
}

// A session whose user is in the store no more when it has come has lost him: it is told so and ends, as
// one whose user has logged in again does.
func TestSessionWhoseUserTheStoreHasLost(t *testing.T) {
	url := servers(t)
	long := func(s *settings) { s.TakeoverTimeout = patience }
	na, a := startMoving(t, url, "a", &given{}, long)
	hb := &given{}
	nb, b := startMoving(t, url, "b", hb, long)
	na.knows("a=up b=up")
	nb.knows("a=up b=up")
	token, _ := hello(t, a, nil)
	if _, err := na.Bind(background, onlySession(a), codec.Packet{Main: 7, Sub: 8}, "user"); err != nil {
		t.Fatal(err)
	}
	hb.come = func() {
		e, err := na.cache.Users().Get(background, "user")
		if err != nil {
			t.Error(err)
			return
		}
		if ok, _, err := na.cache.Users().CompareAndSetRevision(background, "user", e.Revision, nil, time.Second); !ok || err != nil {
			t.Errorf("removed %v, %v", ok, err)
		}
		eventually(t, "the store knows nothing of him", func() bool {
			_, err := na.cache.Users().Get(background, "user")
			return errors.Is(err, services.ErrNotFound)
		})
	}
	_, resumed, _, r := helloes(t, b, token)
	if !resumed {
		t.Fatalf("not resumed: %v", nb.Stats().NotTaken)
	}
	p, err := r.Next()
	if err != nil || p.Main != 0 || p.Sub != 3 || len(p.Body) < 6 ||
		engine.ErrorCode(binary.BigEndian.Uint16(p.Body)) != engine.CodeConflict || binary.BigEndian.Uint32(p.Body[2:]) != 7<<16|8 {
		t.Errorf("got %d/%d %x, %v; want ERROR conflict about 7/8", p.Main, p.Sub, p.Body, err)
	}
	if _, err := r.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("behind the ERROR: %v, want the end", err)
	}
	eventually(t, "it has ended", func() bool { return a.Conns() == 0 && b.Conns() == 0 && nb.Tenures() == 0 })
	if st := nb.Stats(); st.Replaced != 1 || st.Users != 0 {
		t.Errorf("%d replaced, %d users; want 1 and none", st.Replaced, st.Users)
	}
	if _, _, ok, err := nb.Bound(background, "user"); ok || err != nil {
		t.Errorf("the user is bound: %v, %v", ok, err)
	}
}

// A session whose last move the store does not know yet moves on when it does, with its user.
func TestSessionMovesOnWithItsUser(t *testing.T) {
	url := servers(t)
	proxy, deaf := through(t, url)
	proxy.Messages(proctest.NATSMessage)
	long := func(s *settings) { s.TakeoverTimeout = patience }
	na, a := startMoving(t, url, "a", &given{}, long)
	hb := &given{come: func() {
		proxy.Drop(func(m []byte) bool { // what the store says
			return bytes.HasPrefix(m, []byte("MSG _INBOX.")) || bytes.HasPrefix(m, []byte("HMSG _INBOX."))
		})
	}}
	nb, b := startMoving(t, deaf, "b", hb, long, func(s *settings) { s.Timeout = 300 * time.Millisecond })
	nc, c := startMoving(t, url, "c", &given{}, long)
	for _, n := range []*member{na, nb, nc} {
		n.knows("a=up b=up c=up")
	}
	token, _ := hello(t, a, nil)
	if _, err := na.Bind(background, onlySession(a), codec.Packet{}, "user"); err != nil {
		t.Fatal(err)
	}
	if _, resumed := hello(t, b, token); !resumed {
		t.Fatalf("not resumed at b: %v", nb.Stats().NotTaken)
	}
	if id, _, _, err := na.Bound(background, "user"); err != nil || id.Process != na.ID(onlySession(b)).Process {
		t.Fatalf("the store has %v, %v; want a's session still", id, err)
	}
	time.AfterFunc(500*time.Millisecond, proxy.Heal) // c asks before that
	_, resumed, _, r := helloes(t, c, token)         // which is good until the client has confirmed the next one
	if !resumed {
		t.Fatalf("not resumed at c: %v", nc.Stats().NotTaken)
	}
	id := nc.ID(onlySession(c))
	eventually(t, "the user is at c", func() bool {
		at, _, ok, err := na.Bound(background, "user")
		return at == id && ok && err == nil
	})
	if sent, err := na.SendUser(background, "user", 6, 6, []byte("text")); !sent || err != nil {
		t.Errorf("sent %v, %v", sent, err)
	}
	if p, err := r.Next(); err != nil || p.Main != 6 || p.Sub != 6 {
		t.Errorf("got %d/%d, %v", p.Main, p.Sub, err)
	}
}
