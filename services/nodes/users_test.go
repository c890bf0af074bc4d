package nodes_test

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"millrace/codec"
	"millrace/engine"
	"millrace/services"
	"millrace/services/cluster"
)

var about = codec.Packet{Main: 6, Sub: 3}

func (m *member) bind(c *client, user string) uint64 {
	m.t.Helper()
	epoch, err := m.Bind(background, c.s, about, user)
	if err != nil || epoch == 0 || epoch >= 1<<53 {
		m.t.Fatalf("bind: %d, %v", epoch, err)
	}
	return epoch
}

func (m *member) sendUser(user, text string, want bool) {
	m.t.Helper()
	if sent, err := m.SendUser(background, user, 6, 6, []byte(text)); sent != want || err != nil {
		m.t.Fatalf("%s: send to %s: got %v, %v, want %v", m.Name(), user, sent, err, want)
	}
}

func TestALaterLoginReplacesTheEarlierOne(t *testing.T) {
	all := together(t, servers(t), "a b")
	a, b := all[0], all[1]
	x, y, z := a.dial(), b.dial(), b.dial()
	b.sendUser("ann", "nobody", false)
	first := a.bind(x, "ann")
	if again := a.bind(x, "ann"); again <= first {
		t.Errorf("binding again: epoch %d after %d", again, first)
	} else {
		first = again
	}
	a.sendUser("ann", "1", true)
	b.sendUser("ann", "2", true)
	x.want("6/6 1", "6/6 2")
	second := b.bind(y, "ann") // on another node
	if second <= first {
		t.Errorf("epoch %d after %d", second, first)
	}
	a.sendUser("ann", "3", true)
	b.sendUser("ann", "4", true)
	y.want("6/6 3", "6/6 4")
	x.want("error 9", "end")
	b.bind(z, "ann") // on the same one
	a.sendUser("ann", "5", true)
	z.want("6/6 5")
	y.want("error 9", "end")
	if n := b.srv.Stats().Closes[engine.ReasonReplaced]; n != 1 {
		t.Errorf("%d sessions of b closed as replaced, want 1", n)
	}
	z.Close() // and the binding ends with its session
	eventually(t, "ann is free", func() bool {
		sent, err := a.SendUser(background, "ann", 6, 6, nil)
		return !sent && err == nil
	})
	eventually(t, "nothing is known of her", func() bool { return a.Stats().Users+b.Stats().Users == 0 })
	if _, err := a.cache.Users().Get(background, "ann"); err == nil { // its mark goes in a second
		eventually(t, "nothing stands in the store", func() bool {
			_, err := a.cache.Users().Get(background, "ann")
			return errors.Is(err, services.ErrNotFound)
		})
	}
}

// Of two logins at the same time on two nodes one stays, the later one by its epoch, and what
// is sent afterwards reaches it. Meanwhile sends reach a session that had the user, or nobody.
func TestRacesOfTwoLoginsHaveOneWinner(t *testing.T) {
	races := 150
	if *long {
		races = 1000
	}
	all := together(t, servers(t), "a b")
	for i := range races {
		user := fmt.Sprint("user", i%7) // some are bound to sessions of the race before
		var c [2]*client
		var epochs [2]uint64
		var both sync.WaitGroup
		for k, m := range all {
			c[k] = m.dial()
			both.Go(func() {
				var err error
				if epochs[k], err = m.Bind(background, c[k].s, about, user); err != nil {
					t.Error(err)
				}
			})
		}
		both.Wait()
		winner := 0
		if epochs[1] > epochs[0] {
			winner = 1
		}
		if epochs[0] == epochs[1] || t.Failed() {
			t.Fatalf("race %d: epochs %v", i, epochs)
		}
		all[i%2].sendUser(user, fmt.Sprint(i), true)
		c[winner].want(fmt.Sprint("6/6 ", i))
		c[1-winner].want("error 9", "end")
		if id, epoch, ok, err := all[0].Bound(background, user); id != all[winner].ID(c[winner].s) || epoch != epochs[winner] || !ok || err != nil {
			t.Fatalf("race %d: bound to %v by %d, %v, %v", i, id, epoch, ok, err)
		}
		if i%3 == 0 {
			c[winner].Close() // its late end meets the next race of the user
		}
	}
}

func TestALateEndDoesNotRemoveANewerBinding(t *testing.T) {
	srv := servers(t)
	proxy, cut := through(t, srv)
	a, b := start(t, cut, "a"), start(t, srv, "b")
	a.knows("a=up b=up")
	b.knows("a=up b=up")
	x, y := a.dial(), b.dial()
	a.bind(x, "ann")
	proxy.Cut()
	b.knows("a=up b=up") // a's lease is a minute
	b.bind(y, "ann")     // a does not hear of it
	b.sendUser("ann", "1", true)
	y.want("6/6 1")
	if sent, err := a.SendUser(background, "ann", 6, 6, nil); sent || services.ErrorOf(err).Code != engine.CodeUnavailable {
		t.Errorf("a send to a user while cut off: %v, %v", sent, err)
	}
	if _, err := a.Bind(background, x.s, about, "bob"); services.ErrorOf(err).Code != engine.CodeUnavailable {
		t.Errorf("a bind while cut off: %v", err)
	}
	x.barrier()
	proxy.Heal()
	x.want("error 9", "end") // it hears of it now
	eventually(t, "a has forgotten her", func() bool { return a.Stats().Users == 0 })
	for range 20 {
		a.sendUser("ann", "2", true)
		y.want("6/6 2")
	}
}

func TestTheUsersOfANodeThatHasGoneAreFree(t *testing.T) {
	srv := servers(t)
	proxy, cut := through(t, srv)
	a := start(t, cut, "a", lease(time.Second))
	b := start(t, srv, "b", lease(time.Second))
	a.knows("a=up b=up")
	b.knows("a=up b=up")
	x, kept := a.dial(), a.dial()
	a.bind(x, "ann")
	a.bind(kept, "bob")
	proxy.Cut()
	b.knows("b=up")
	b.sendUser("ann", "1", false)
	y := b.dial()
	b.bind(y, "ann")
	b.sendUser("ann", "2", true)
	y.want("6/6 2")
	proxy.Heal()
	x.want("error 9", "end")
	// Who was bound before and whom nobody has bound since is bound after it.
	b.knows("a=up b=up")
	eventually(t, "bob is reached again", func() bool {
		sent, err := b.SendUser(background, "bob", 6, 6, []byte("3"))
		return sent && err == nil
	})
	kept.want("6/6 3")
}

func TestUsersAreBounded(t *testing.T) {
	a := start(t, servers(t), "a", func(s *settings) { s.MaxSessionUsers, s.MaxUsers = 2, 3 })
	x, y := a.dial(), a.dial()
	a.bind(x, "1")
	a.bind(x, "2")
	if _, err := a.Bind(background, x.s, about, "3"); !errors.Is(err, engine.ErrLimit) {
		t.Errorf("a third user of one session: %v", err)
	}
	a.bind(y, "3")
	if _, err := a.Bind(background, y.s, about, "4"); !errors.Is(err, engine.ErrLimit) {
		t.Errorf("a fourth user of the node: %v", err)
	}
	for _, user := range []string{"", string(make([]byte, 257))} {
		if _, err := a.Bind(background, x.s, about, user); services.ErrorOf(err).Code != engine.CodeBadBody {
			t.Errorf("a user of %d bytes: %v", len(user), err)
		}
	}
}

func TestUsersOfANodeAlone(t *testing.T) {
	a := start(t, "", "a")
	x, y := a.dial(), a.dial()
	first := a.bind(x, "ann")
	a.sendUser("ann", "1", true)
	x.want("6/6 1")
	if second := a.bind(y, "ann"); second <= first {
		t.Errorf("epoch %d after %d", second, first)
	}
	x.want("error 9", "end")
	a.sendUser("ann", "2", true)
	y.want("6/6 2")
	y.Close()
	eventually(t, "ann is free", func() bool { return a.Stats().Users == 0 })
	a.sendUser("ann", "3", false)
}

// A sender that has read the store before another bind is refused by the epoch that it read.
func TestAFrameByAnOlderEpochIsRefused(t *testing.T) {
	a := start(t, servers(t), "a")
	x, y := a.dial(), a.dial()
	first := a.bind(x, "bob")
	if taken, _ := a.TakeUser(x.s.ID(), "bob", first); !taken {
		t.Error("by the epoch that stands: refused")
	}
	if taken, _ := a.TakeUser(x.s.ID(), "bob", first+1); !taken {
		t.Error("by a later one, that the node has not heard of: refused")
	}
	if _, stale := a.TakeUser(x.s.ID(), "bob", first-1); !stale {
		t.Error("by an earlier one: not refused")
	}
	if taken, _ := a.TakeUser(y.s.ID(), "bob", first-1); taken {
		t.Error("for a session that had him before: taken")
	}
	x.want("6/6 ", "6/6 ")
}

// A request to bind may run when its peer has sent its FIN: nothing is kept of it.
func TestABindBehindTheFINLeavesNothing(t *testing.T) {
	a := start(t, "", "a")
	x := a.dial()
	release := x.s.Hold()
	if err := x.Conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	<-x.s.InputContext().Done()
	for i := range 200 {
		if _, err := a.Bind(background, x.s, about, fmt.Sprint(i%3)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "nothing is kept", func() bool { return a.Tenures() == 0 && a.Stats().Users == 0 })
	release()
	x.want("end")
}

// patient has requests to other nodes and to the store take as long as they need on a busy machine.
func patient(s *settings) { s.Timeout = patience }

// Frames for a user arrive in the order of the calls, though nobody waits between them, also while the user
// moves from session to session.
func TestFramesForAUserThatNobodyWaitsForArriveInOrder(t *testing.T) {
	all := together(t, servers(t), "a b", patient)
	a, b := all[0], all[1]
	const frames, logins = 400, 4
	for _, from := range all { // as its own node and as another's
		sessions := []*client{b.dial()}
		b.bind(sessions[0], "ann")
		outcomes := make(chan error, frames)
		for i := range frames {
			if i%(frames/logins) == frames/logins/2 {
				next := b.dial()
				b.bind(next, "ann")
				sessions = append(sessions, next)
			}
			from.SendUserThen(background, "ann", 6, 6, fmt.Appendf(nil, "%03d", i), func(sent bool, err error) {
				if !sent && err == nil {
					err = errors.New("not sent")
				}
				outcomes <- err
			})
		}
		for range frames {
			if err := <-outcomes; err != nil {
				t.Fatal(err)
			}
		}
		var got []string
		for _, c := range sessions[:len(sessions)-1] {
			for f := c.next(); f != "error 9"; f = c.next() {
				got = append(got, f)
			}
		}
		got = append(got, sessions[len(sessions)-1].barrier()...)
		for i, f := range got {
			if want := fmt.Sprintf("6/6 %03d", i); f != want {
				t.Fatalf("%s: frame %d is %q, want %q", from.Name(), i, f, want)
			}
		}
		if len(got) != frames {
			t.Errorf("%s: got %d frames, want %d", from.Name(), len(got), frames)
		}
	}
	a.sendUser("nobody", "", false)
}

// MaxAsks limits the frames that nobody waits for, and with them their goroutines, however many users they
// are for.
func TestFramesThatNobodyWaitsForAreLimited(t *testing.T) {
	const most, more = 20, 100
	a := together(t, servers(t), "a", patient, func(s *settings) { s.MaxAsks = most })[0]
	gate, outcomes := make(chan bool), make(chan error, most+more)
	send := func(i int) {
		a.SendUserThen(background, fmt.Sprint("nobody", i), 6, 6, nil, func(_ bool, err error) {
			if err == nil {
				<-gate
			}
			outcomes <- err
		})
	}
	before := runtime.NumGoroutine()
	for i := range most + more {
		send(i)
	}
	if n := runtime.NumGoroutine() - before; n > most+more/2 {
		t.Errorf("%d goroutines for %d frames at a limit of %d", n, most+more, most)
	}
	for range more {
		if err := <-outcomes; !errors.Is(err, cluster.ErrOverloaded) {
			t.Fatalf("got %v over the limit, want ErrOverloaded", err)
		}
	}
	close(gate)
	for range most {
		if err := <-outcomes; err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "a frame has room again", func() bool {
		send(0)
		return <-outcomes == nil
	})
}

// Many logins of one user at a time each succeed: they don't make each other try again until their time is
// over.
func TestManyLoginsOfOneUserAtATime(t *testing.T) {
	a := start(t, servers(t), "a", patient)
	c := a.dial()
	const logins = 2000
	epochs := make(chan uint64, logins)
	for range logins {
		go func() {
			epoch, err := a.Bind(background, c.s, about, "ann")
			if err != nil {
				t.Error(err)
			}
			epochs <- epoch
		}()
	}
	had := map[uint64]bool{}
	for range logins {
		if e := <-epochs; had[e] {
			t.Errorf("epoch %d twice", e)
		} else {
			had[e] = true
		}
	}
	a.sendUser("ann", "1", true)
	c.want("6/6 1")
}
