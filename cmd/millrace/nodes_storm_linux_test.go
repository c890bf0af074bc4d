package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// stormed is a user, on a connection of his own.
type stormed struct {
	name string
	node int
	c    *peer
	got  chan string // what he was sent
	lost chan struct{}
}

// login has the user bound at a node, however often it takes.
func (u *stormed) login(t *testing.T, nodes []*process, node int) error {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		c := dialAddr(t, nodes[node].ready[0])
		if _, err := c.Write(packet{6, 3, fmt.Sprintf(`{"user":%q}`, u.name)}.bytes()); err == nil {
			if f, err := c.next(); err == nil && f.main == 6 && f.sub == 3 {
				_ = c.SetDeadline(time.Time{})
				u.node, u.c, u.lost = node, c, make(chan struct{})
				go u.listen(c, u.lost)
				return nil
			}
		}
		c.Close()
	}
	return errors.New("no login")
}

func (u *stormed) listen(c *peer, lost chan struct{}) {
	defer close(lost)
	for {
		f, err := c.next()
		if err != nil {
			return
		}
		var push struct{ User, Data string }
		if f.main == 6 && f.sub == 6 && json.Unmarshal([]byte(f.body), &push) == nil && push.User == u.name {
			u.got <- push.Data
		}
	}
}

// atOnce runs fn for each of them, so many at a time.
func atOnce(places int, all []*stormed, fn func(u *stormed)) {
	var next atomic.Int64
	var work sync.WaitGroup
	for range places {
		work.Go(func() {
			for i := next.Add(1); int(i) <= len(all); i = next.Add(1) {
				fn(all[i-1])
			}
		})
	}
	work.Wait()
}

// Ten thousand users log in on three nodes, one of which dies. Its users' clients come again,
// elsewhere. The figures are how long the logins take, and how long after the death it takes
// until each of the ten thousand has got what he was sent.
func TestUsersAreReachedAgainAfterANodesDeath(t *testing.T) {
	if !*long {
		t.Skip("10,000 logins: with -long")
	}
	const users = 10_000
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil || files.Cur < users+1000 {
		t.Skipf("an open-file limit of %d, %v", files.Cur, err)
	}
	dir, _ := natsServer(t)
	var nodes []*process
	for _, name := range []string{"a", "b", "c"} {
		nodes = append(nodes, serve(t, "--cluster=embedded", "--cluster-dir="+dir, "--node="+name, "--first-frame-timeout=0", "--max-conns=10000", "--log-level=error"))
	}
	for _, n := range nodes {
		n.dial().knows("a=up b=up c=up")
	}
	all := make([]*stormed, users)
	for i := range all {
		all[i] = &stormed{name: fmt.Sprint("user", i), node: i % 3, got: make(chan string, 8)}
	}
	login := func(of []*stormed, node func(u *stormed) int) time.Duration {
		began := time.Now()
		atOnce(64, of, func(u *stormed) {
			if err := u.login(t, nodes, node(u)); err != nil {
				t.Errorf("%s: %v", u.name, err)
			}
		})
		if t.Failed() {
			t.FailNow()
		}
		return time.Since(began)
	}
	// reach sends to each of them from a node that he is not on.
	reach := func(round string, living int) {
		var places [16]*peer
		free := make(chan int, len(places))
		for i := range places {
			places[i] = nodes[i%living].dial()
			free <- i
		}
		atOnce(len(places), all, func(u *stormed) {
			i := <-free
			defer func() { free <- i }()
			for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
				if obj, code := places[i].ask(6, 4, fmt.Sprintf(`{"user":%q,"data":%q}`, u.name, round)); code == 0 && obj["sent"] == true {
					break
				}
			}
			select {
			case text := <-u.got:
				if text != round {
					t.Errorf("%s got %q, want %q", u.name, text, round)
				}
			case <-time.After(patience):
				t.Errorf("%s is not reached", u.name)
			}
		})
	}
	took := login(all, func(u *stormed) int { return u.node })
	t.Logf("%d logins took %v: %.0f a second", users, took.Round(time.Millisecond), users/took.Seconds())
	began := time.Now()
	reach("before", 3)
	t.Logf("a message to each of them took %v", time.Since(began).Round(time.Millisecond))
	var victims []*stormed
	for _, u := range all {
		if u.node == 2 {
			victims = append(victims, u)
		}
	}
	died := time.Now()
	nodes[2].signal(syscall.SIGKILL)
	for _, u := range victims {
		<-u.lost
	}
	took = login(victims, func(u *stormed) int { return int(u.name[len(u.name)-1]) % 2 })
	t.Logf("%d users of the node that died are bound again %v after its death: %.0f logins a second", len(victims), time.Since(died).Round(time.Millisecond), float64(len(victims))/took.Seconds())
	reach("after", 2)
	t.Logf("each of the %d has got a message %v after the death", users, time.Since(died).Round(time.Millisecond))
	for _, u := range all {
		select {
		case text := <-u.got:
			t.Errorf("%s got %q too", u.name, text)
		default:
		}
	}
}
