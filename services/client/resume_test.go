package client_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/codec"
	"millrace/services/client"
)

var long = flag.Bool("long", false, "cut connections at every byte behind every door, not only at some")

var (
	hRefuse = client.Handle(3, 1)
	hSend   = client.Handle(2, 9)
	hPush   = client.Handle(2, 4)
	hSilent = client.Handle(5, 1)
)

// exchange is what a client and its server had to do with each other.
type exchange struct {
	answers []string // of calls, each in its place
	pushes  []string // in the order in which they came
	sent    []string // that had no answer, in the order in which the server had them
	ran     []string // all that the server was asked, sorted
	up      int      // bytes of the first connection
	down    int
	made    int // connections
}

const pushes = 7

// run is an exchange over connections that break.
func run(t testing.TB, door string, cuts ...cut) (x exchange) {
	s := newResumer(t, door, cuts...)
	var mu sync.Mutex
	all := make(chan struct{})
	c := s.dial(nil)
	c.On(hPush, func(p codec.Packet) {
		mu.Lock()
		defer mu.Unlock()
		if x.pushes = append(x.pushes, string(p.Body)); len(x.pushes) == pushes {
			close(all)
		}
	})
	x.answers = make([]string, pushes+2)
	call := func(i int, handle uint32) {
		b, err := c.Do(soon(t), handle, fmt.Append(nil, "call ", i))
		var refused *client.Error
		if errors.As(err, &refused) {
			x.answers[i] = "refused"
		} else {
			x.answers[i] = fmt.Sprintf("%s %v", b, err)
		}
	}
	var wg sync.WaitGroup
	for i := range pushes - 1 {
		wg.Go(func() { call(i, client.Handle(1, uint16(1+i%2))) })
	}
	wg.Go(func() { call(pushes, hRefuse) })
	for i := range 5 {
		if err := c.Send(soon(t), hSend, fmt.Append(nil, i)); err != nil {
			t.Errorf("send %d: %v", i, err)
		}
	}
	wg.Wait()
	call(pushes-1, hEcho)
	call(pushes+1, hRefuse)
	select {
	case <-all:
	case <-time.After(time.Minute):
		t.Errorf("cut at %v: a push was lost", cuts)
	}
	s.look("the server has had all", func() bool { return len(s.ran) >= pushes+2+5 })
	c.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	x.up, x.down = s.conns[0].raw.count()
	x.made = len(s.conns)
	for _, r := range s.ran {
		if text, ok := strings.CutPrefix(r, "2/9 "); ok {
			x.sent = append(x.sent, text)
		}
	}
	x.ran = slices.Sorted(slices.Values(s.ran))
	return x
}

// broken runs an exchange over connections that break, and compares it with an unbroken one.
// It returns how many connections there were.
func broken(t testing.TB, door string, whole exchange, cuts ...cut) int {
	x := run(t, door, cuts...)
	for _, part := range []struct {
		name      string
		got, want []string
	}{{"answers", x.answers, whole.answers}, {"pushes", x.pushes, whole.pushes}, {"sent", x.sent, whole.sent}, {"ran", x.ran, whole.ran}} {
		if !slices.Equal(part.got, part.want) {
			t.Errorf("%s cut at %+v: %s: got %q, want %q", door, cuts, part.name, part.got, part.want)
		}
	}
	return x.made
}

// Cut at any byte, either way, an exchange is that of an unbroken run: nothing is lost,
// doubled, run twice or out of order, and every call has its answer.
func TestCutAtEveryByte(t *testing.T) {
	for _, door := range []string{"tcp", "tls", "ws", "wss"} {
		t.Run(door, func(t *testing.T) {
			whole := run(t, door)
			if len(whole.ran) != pushes+2+5 || len(whole.pushes) != pushes || whole.answers[0] != "call 0 <nil>" || whole.answers[pushes] != "refused" {
				t.Fatalf("unbroken: %+v", whole)
			}
			every, again := map[string]int{"tcp": 1, "ws": 11, "tls": 67, "wss": 97}[door], 3
			if *long {
				every, again = 1, 1
			}
			var runs [][]cut
			for n := 1; n < whole.down; n += every {
				runs = append(runs, []cut{{down: n}})
			}
			for n := 1; n < whole.up; n += every {
				runs = append(runs, []cut{{up: n}})
			}
			// And then the connection that resumes breaks too: in its HELLO, its WELCOME and behind.
			for n := 1; n < 120 && door == "tcp"; n += again {
				half := cut{down: whole.down / 2}
				runs = append(runs, []cut{half, {down: n}}, []cut{half, {up: n}}, []cut{half, {up: 34}, {down: n}, {up: 34}, {up: n}})
			}
			made, next := 0, make(chan []cut)
			var mu sync.Mutex
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					for cuts := range next {
						n := broken(t, door, whole, cuts...)
						mu.Lock()
						made += n
						mu.Unlock()
					}
				})
			}
			for _, cuts := range runs {
				next <- cuts
			}
			close(next)
			wg.Wait()
			if made < 2*len(runs)*9/10 {
				t.Errorf("%d connections in %d broken runs", made, len(runs))
			}
			t.Logf("%d runs, %d connections; a whole one is %d bytes up, %d down", len(runs), made, whole.up, whole.down)
		})
	}
}

// A server that does not know the session any more: what was written may have run, what was
// not goes to the new session, and the user is told.
func TestANewSessionIsTold(t *testing.T) {
	s := newResumer(t, "tcp")
	var mu sync.Mutex
	var told []error
	begun := 0
	c := s.dial(func(cfg *client.Config) {
		cfg.OnConnect = func(context.Context, *client.Client) error {
			mu.Lock()
			defer mu.Unlock()
			begun++
			return nil
		}
		cfg.OnLost = func(err error) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, err)
		}
	})
	done := make(chan error, 1)
	go func() {
		_, err := c.Do(soon(t), hSilent, []byte("under way"))
		done <- err
	}()
	s.look("the request is there", func() bool { return len(s.ran) == 1 })
	s.mu.Lock()
	s.sessions = nil
	s.conns[0].write(refusal(5, 0, "idle"))
	s.mu.Unlock()
	err := <-done
	var reason *client.Error
	if !errors.Is(err, client.ErrLost) || !errors.Is(err, client.ErrSession) || !errors.As(err, &reason) || reason.Code != 5 {
		t.Errorf("got %v, want ErrLost and ErrSession with the last connection's reason", err)
	}
	if b, err := c.Do(soon(t), hEcho, []byte("x")); string(b) != "x" || err != nil {
		t.Errorf("afterwards: got %q, %v", b, err)
	}
	mu.Lock()
	defer mu.Unlock()
	if begun != 2 || len(told) != 2 || errors.Is(told[0], client.ErrSession) || !errors.Is(told[1], client.ErrSession) {
		t.Errorf("OnConnect %d times, OnLost %q; want 2, the connection's end and the session's", begun, told)
	}
	if st := c.ResumeStats(); st.Lost != 1 || st.Resumed != 0 {
		t.Errorf("got %+v", st)
	}
}

// A token becomes invalid only when the server has received a frame after the HELLO. A client whose
// connection breaks before that has two tokens, and the older one is valid.
func TestTheOlderTokenWorksUntilTheNewerIsConfirmed(t *testing.T) {
	s := newResumer(t, "tcp", cut{}, cut{down: 33}) // the WELCOME, and nothing behind it
	c := s.dial(nil)
	if _, err := c.Do(soon(t), hEcho, nil); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	var tried []codec.Hello
	s.greet = func(_ *peerConn, h codec.Hello) bool { tried = append(tried, h); return true }
	s.mu.Unlock()
	s.breakAll()
	if b, err := c.Do(soon(t), hEcho, []byte("x")); string(b) != "x" || err != nil {
		t.Fatalf("got %q, %v", b, err)
	}
	s.look("the session that was begun in vain is ended", func() bool { return s.begun == 1+len(tried)-2 && s.byes == s.begun-1 })
	if st := c.ResumeStats(); st.Lost != 0 || st.Resumed == 0 {
		t.Errorf("got %+v", st)
	}
	s.mu.Lock()
	s.sessions, tried = nil, nil // and the older one is forgotten when the newer one is confirmed
	s.mu.Unlock()
	s.breakAll()
	s.look("a new session", func() bool { return len(s.sessions) == 1 })
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(tried) != 1 {
		t.Errorf("tried %+v", tried)
	}
}

// A server that has no room but for sessions that it knows refuses the newer token of two; so
// does one that ends the connection without a word. The older one is tried there at once: with
// tokens and addresses both in turn, each address might see but one of the two.
func TestAfterARefusalTheOtherTokenIsTriedAtTheSameAddress(t *testing.T) {
	for _, how := range []string{"ERROR 12", "end"} {
		t.Run(how, func(t *testing.T) {
			refuse := func(c *peerConn, how string) bool {
				if how == "ERROR 12" {
					c.write(refusal(12, 0, "full"))
				}
				_ = c.raw.Close()
				return false
			}
			full, asked := newResumer(t, "tcp"), 0
			full.greet = func(c *peerConn, _ codec.Hello) bool {
				if asked++; asked == 2 {
					return refuse(c, "end")
				}
				return refuse(c, "ERROR 12")
			}
			s := newResumer(t, "tcp", cut{}, cut{down: 33}) // the WELCOME, and nothing behind it
			c := s.dial(func(cfg *client.Config) { cfg.Addrs = append(cfg.Addrs, "tcp://"+full.ln.Addr().String()) })
			if _, err := c.Do(soon(t), hEcho, nil); err != nil {
				t.Fatal(err)
			}
			s.mu.Lock()
			s.greet = func(c *peerConn, h codec.Hello) bool {
				return slices.ContainsFunc(s.sessions, func(x *stored) bool { return x.token == h.Token }) || refuse(c, how)
			}
			s.mu.Unlock()
			s.breakAll()
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second) // of the minute that the session has
			defer cancel()
			if b, err := c.Do(ctx, hEcho, []byte("x")); string(b) != "x" || err != nil {
				t.Errorf("got %q, %v", b, err)
			}
			if st := c.ResumeStats(); st.Lost != 0 || st.Resumed == 0 {
				t.Errorf("got %+v", st)
			}
		})
	}
}

// OnConnect's calls survive a reconnect as others do, and it does not run again.
func TestOnConnectGoesOnOverAReconnect(t *testing.T) {
	s := newResumer(t, "tcp")
	var begun, broken int
	s.on = func(c *peerConn, p codec.Packet) bool {
		if p.Main == 1 && broken < 3 {
			broken++
			_ = c.raw.Close() // and it is run all the same
		}
		return true
	}
	c := s.dial(func(cfg *client.Config) {
		cfg.OnConnect = func(ctx context.Context, c *client.Client) error {
			begun++
			for i := range 3 {
				if b, err := c.Do(ctx, hEcho, fmt.Append(nil, i)); string(b) != fmt.Sprint(i) || err != nil {
					return fmt.Errorf("got %q, %w", b, err)
				}
			}
			return nil
		}
	})
	if b, err := c.Do(soon(t), hEcho, []byte("x")); string(b) != "x" || err != nil || begun != 1 {
		t.Errorf("got %q, %v; OnConnect ran %d times", b, err, begun)
	}
	if !slices.Equal(s.ran, []string{"1/1 0", "1/1 1", "1/1 2", "1/1 x"}) {
		t.Errorf("ran %q", s.ran)
	}
}
