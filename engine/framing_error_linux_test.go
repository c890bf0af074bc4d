package engine

import (
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/codec"
)

// moody is a framing of varint's that may refuse Main 0.
type moody struct {
	codec.Framer
	refuses *atomic.Bool
}

var errMoody = errors.New("there is no Main 0 here")

func (f moody) Append(dst []byte, p codec.Packet) ([]byte, error) {
	if f.refuses.Load() && p.Main == 0 {
		return dst, errMoody
	}
	return f.Framer.Append(dst, p)
}

// lines keeps what is logged.
type lines struct {
	mu  sync.Mutex
	all strings.Builder // guarded by mu
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(b)
}

func (l *lines) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.all.String(), text)
}

// A framing that has handles and can't write an ERROR is refused, unless there are none.
func TestAFramingWithoutERRORIsRefused(t *testing.T) {
	addr := "tcp://127.0.0.1:0"
	no := moody{must(codec.Varint(100)), new(atomic.Bool)}
	no.refuses.Store(true)
	for _, c := range []struct {
		name string
		cfg  Config
		want string // the field
	}{
		{"Main 0", Config{Framer: no}, "Framer"},
		{"no room", Config{Framer: must(codec.Varint(9)), MaxFrame: 9}, "Framer"},
		{"just room", Config{Framer: must(codec.Varint(10)), MaxFrame: 10}, ""},
		{"of one address", Config{Framings: map[string]Framing{addr: {Framer: no}}}, "Framings"},
		{"without system frames", Config{Framer: no, NoSystemFrames: true}, ""},
		{"without handles", Config{Framer: must(codec.Line(5)), MaxFrame: 5}, ""},
	} {
		c.cfg.Addrs = []string{addr}
		_, err := New(c.cfg, &funcs{})
		var ce *ConfigError
		if errors.As(err, &ce); (err == nil) != (c.want == "") || ce != nil && ce.Field != c.want {
			t.Errorf("%s: got %v, want a fault of %q", c.name, err, c.want)
		}
	}

	got := make(chan error, 1)
	srv := serve(t, Config{Addrs: []string{addr}, Framings: map[string]Framing{addr: {Switches: true}}}, &funcs{read: func(s *Session, p codec.Packet) {
		got <- s.SetFramer(no, true)
		s.Reply(p, p.Body)
	}})
	c := dialDoor(t, srv.URLs()[0], "tcp", "")
	c.SetDeadline(time.Now().Add(20 * time.Second))
	c.Write(codec.Packet{Main: 1, Sub: 1}.Append(nil))
	if p, err := codec.NewReader(c, nil).Next(); err != nil || p.Main != 1 {
		t.Errorf("in the old framing: got %v, %v", p, err)
	}
	if err := <-got; !errors.Is(err, errMoody) {
		t.Errorf("SetFramer: got %v, want %v", err, errMoody)
	}
}

// One that stops to write them closes the sessions that are owed one, and is told of once.
func TestASessionThatCannotBeToldOfAnErrorCloses(t *testing.T) {
	for _, d := range []Dispatch{Inline, Ordered} {
		f := moody{must(codec.Varint(100)), new(atomic.Bool)}
		log := &lines{}
		srv := serve(t, Config{Addrs: []string{"tcp://127.0.0.1:0"}, Framer: f, Dispatch: d, Logger: slog.New(slog.NewTextHandler(log, nil))},
			&funcs{read: func(s *Session, p codec.Packet) { s.ReplyError(p, CodeUnknownHandle, "no") }})
		f.refuses.Store(true)
		for _, sent := range []string{"\x04\x00\x01\x00\x09", "\x04\x00\x00\x00\x4d"} { // 1/9, and 0/77, which is the engine's to answer
			c := dialDoor(t, srv.URLs()[0], "tcp", "")
			c.SetDeadline(time.Now().Add(20 * time.Second))
			io.WriteString(c, sent)
			if b, err := io.ReadAll(c); err != nil || len(b) > 0 {
				t.Errorf("%v, %q: got %q, %v, want the end", d, sent, b, err)
			}
		}
		for end := time.Now().Add(20 * time.Second); srv.Stats().Closes[ReasonRefused] != 2; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%v: closed: %v", d, srv.Stats().Closes)
			}
		}
		if n := log.count("can't write an ERROR"); n != 1 {
			t.Errorf("%v: told %d times", d, n)
		}
	}
}
