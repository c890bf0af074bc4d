package nodes_test

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/codec"
	"millrace/internal/proctest"
	"millrace/services/nodes/internal/envelope"
)

// lockedText collects what is written to it.
type lockedText struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (x *lockedText) Write(p []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.b.Write(p)
}

func (x *lockedText) String() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.b.String()
}

// A node whose frames are shorter than another's says what it could not give to its sessions.
func TestFramesThatDoNotFitAreTold(t *testing.T) {
	url := servers(t)
	log := &lockedText{}
	a := start(t, url, "a")
	b := start(t, url, "b", func(s *settings) {
		s.maxFrame, s.Logger = 1<<10, slog.New(slog.NewTextHandler(log, nil))
	})
	a.knows("a=up b=up")
	b.knows("a=up b=up")
	c := b.dial()
	if _, err := b.Join(background, c.s, "tea"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Bind(background, c.s, codec.Packet{}, "ann"); err != nil {
		t.Fatal(err)
	}
	long := make([]byte, 2<<10)
	if err := a.Broadcast(nil, 1, 2, long); err != nil {
		t.Fatal(err)
	}
	if _, err := a.SendGroup(background, nil, "tea", 1, 8, long); err != nil {
		t.Fatal(err)
	}
	if err := a.Send(b.ID(c.s), 7, 1, long); err != nil {
		t.Fatal(err)
	}
	if sent, err := a.SendUser(background, "ann", 6, 6, long); sent || err != nil {
		t.Errorf("to the user: %v, %v; want that it is not sent", sent, err)
	}
	if err := a.Send(b.ID(c.s), 7, 1, []byte("short")); err != nil {
		t.Fatal(err)
	}
	c.want("7/1 short")
	if st := b.Stats(); st.Unfit < 4 || st.Shed != 0 || st.Missed != 0 {
		t.Errorf("%d counted, %d shed, %d missed; want at least 4, none and none", st.Unfit, st.Shed, st.Missed)
	}
	if n := a.Stats().Unfit; n != 0 {
		t.Errorf("a counts %d", n)
	}
	if text := log.String(); !strings.Contains(text, "from=a handle=1/2 bytes=2048") || strings.Count(text, "does not fit") > 2 {
		t.Errorf("logged: %s", text)
	}
}

// A frame that does not fit into those of the node that takes a session over does not end the session.
func TestSessionComesThoughAFrameDoesNotFit(t *testing.T) {
	url := servers(t)
	proxy, deaf := through(t, url)
	proxy.Messages(proctest.NATSMessage)
	proxy.Drop(func(m []byte) bool { return isOf(envelope.Broadcast, m) }) // so that a has not given it to the session
	long := func(s *settings) { s.TakeoverTimeout = patience }
	na, a := startMoving(t, deaf, "a", &given{}, long)
	c := start(t, url, "c")
	hb := &given{maxFrame: 1 << 10}
	var nb *member
	var once sync.Once
	hb.counting = func(int) { // a broadcast comes while b keeps what is sent to the session
		once.Do(func() {
			if err := c.Broadcast(nil, 1, 2, make([]byte, 2<<10)); err != nil {
				t.Error(err)
			}
			for end := time.Now().Add(patience); nb.Stats().Unfit == 0 && time.Now().Before(end); {
				time.Sleep(time.Millisecond)
			}
		})
	}
	nb, b := startMoving(t, url, "b", hb, long)
	for _, n := range []*member{na, nb, c} {
		n.knows("a=up b=up c=up")
	}
	token, _ := hello(t, a, nil)
	if _, err := na.Join(background, onlySession(a), "tea"); err != nil {
		t.Fatal(err)
	}
	if _, resumed := hello(t, b, token); !resumed {
		t.Fatalf("not resumed: %v", nb.Stats().NotTaken)
	}
	if n := nb.Stats().Unfit; n != 2 {
		t.Errorf("%d counted, want 2: for those that were here, and for the one that came", n)
	}
}

// A frame that the servers don't take is told where it is sent.
func TestFramesThatTheServersDoNotTakeAreTold(t *testing.T) {
	url := servers(t)
	log := &lockedText{}
	a := start(t, url, "a", func(s *settings) {
		s.maxFrame, s.Logger = 8<<20, slog.New(slog.NewTextHandler(log, nil))
	})
	b := start(t, url, "b", func(s *settings) { s.maxFrame = 8 << 20 })
	a.knows("a=up b=up")
	b.knows("a=up b=up")
	there := b.dial()
	if err := a.Broadcast(nil, 1, 2, make([]byte, 2<<20)); err != nil {
		t.Fatal(err)
	}
	if err := a.Broadcast(nil, 1, 2, []byte("short")); err != nil {
		t.Fatal(err)
	}
	there.want("1/2 short")
	if text := log.String(); strings.Count(text, "level=WARN msg=\"nodes: message to other nodes dropped") != 1 || !strings.Contains(text, "max_payload=1048576") {
		t.Errorf("logged: %s", text)
	}
	if n := a.Stats().Unsent; n == 0 {
		t.Error("nothing is counted")
	}
}
