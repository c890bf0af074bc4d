//go:build unix

package cluster_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"millrace/internal/proctest"
	"millrace/services"
	"millrace/services/cluster"
)

// The processes of a history are this test binary run again, in one of two
// roles: server, an embedded NATS that can be killed, and member, which takes
// one lock again and again and works on a few registers. A member writes what it
// does as one line of JSON each; the stamps are of the machine's monotonic clock,
// which all processes share.

// note is one line of a member.
type note struct {
	Kind  string // ready, given, held, unlock, ended, lost, untold, call, return, refused, stopped
	Who   int    // filled in by the parent
	Token uint64 `json:",omitempty"`
	From  int64  `json:",omitempty"` // before it was asked for; nanoseconds
	To    int64  `json:",omitempty"` // after the answer; held: until when the lock is his

	Op   int       `json:",omitempty"` // numbers the calls of one member
	In   register  `json:",omitzero"`
	Out  registers `json:",omitzero"`
	Text string    `json:",omitempty"`
}

// register is a call on a key: get, set, delete or cas.
type register struct{ Call, Key, Expect, Value string }

// registers is its answer. Unknown: it may have happened, or happen still.
type registers struct {
	OK, Unknown, Dropped bool
	Value                string
}

func init() {
	proctest.Role("server", serverRole)
	proctest.Role("member", memberRole)
}

func serverRole() {
	port, _ := strconv.Atoi(os.Getenv("NATS_PORT"))
	srv, err := cluster.StartEmbedded(cluster.EmbeddedConfig{Dir: os.Getenv("NATS_DIR"), Port: port, ReadyTimeout: time.Minute})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	fmt.Println(srv.URL())
	_ = bufio.NewScanner(os.Stdin).Scan() // until the parent ends it
	srv.Stop()
}

// member is the other role's state.
type member struct {
	c   *cluster.Cache
	mu  sync.Mutex
	out *json.Encoder
}

func (m *member) note(n note) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_ = m.out.Encode(n)
}

func memberRole() {
	cluster.InjectClock()
	lease, _ := time.ParseDuration(os.Getenv("NATS_LEASE"))
	c, err := cluster.New(cluster.Config{URL: os.Getenv("NATS_URL"), Bucket: "h", Lease: lease, Timeout: 900 * time.Millisecond})
	for end := time.Now().Add(time.Minute); err == nil; time.Sleep(20 * time.Millisecond) {
		if err = c.Start(background); err == nil || time.Now().After(end) {
			break
		}
		err = nil // a fault is under way
	}
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	m := &member{c: c, out: json.NewEncoder(os.Stdout)}
	m.note(note{Kind: "ready"})
	ctx, cancel := context.WithCancel(background)
	var running sync.WaitGroup
	running.Go(func() { m.locks(ctx) })
	running.Go(func() { m.registers(ctx) })
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		if text, ok := strings.CutPrefix(in.Text(), "step "); ok {
			d, _ := time.ParseDuration(text)
			cluster.StepWall(d)
		}
	}
	cancel()
	running.Wait()
	_ = c.Stop(background)
	m.note(note{Kind: "stopped"})
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// refused notes that the store is not taken any more.
func (m *member) refused(err error) bool {
	if !errors.Is(err, cluster.ErrReplaced) {
		return false
	}
	m.note(note{Kind: "refused", From: proctest.Monotonic(), Text: err.Error()})
	return true
}

// locks takes the lock, looks at it while it has it, and gives it back.
func (m *member) locks(ctx context.Context) {
	for ctx.Err() == nil {
		from := proctest.Monotonic()
		lost := make(chan int64, 1)
		token, err := services.LockAndWait(ctx, m.c, "l", services.LockOptions{TTL: time.Minute, Renew: rand.N(2) == 0,
			Wait: time.Minute, OnLost: func() {
				select {
				case lost <- proctest.Monotonic():
				default:
					m.note(note{Kind: "lost twice"})
				}
			}})
		if err != nil || token == 0 {
			m.refused(err)
			pause(ctx, 10*time.Millisecond)
			continue
		}
		m.note(note{Kind: "given", Token: token, From: from, To: proctest.Monotonic()})
		ended := false
		for hold := time.Now().Add(rand.N(700 * time.Millisecond)); time.Now().Before(hold) && !ended; {
			from := proctest.Monotonic()
			left := m.c.Holds("l", token)
			if ended = left == 0; !ended {
				m.note(note{Kind: "held", Token: token, From: from, To: from + int64(left)})
			}
			pause(background, 3*time.Millisecond) // between looks
		}
		if !ended {
			m.note(note{Kind: "unlock", Token: token, From: proctest.Monotonic()})
			// Who is told here that it is not his any more may not be told by OnLost.
			if _, err = m.c.Unlock(background, "l", token); err != nil {
				m.c.Release(nil)
			}
			continue
		}
		m.note(note{Kind: "ended", Token: token, From: proctest.Monotonic()})
		select {
		case at := <-lost:
			m.note(note{Kind: "lost", Token: token, From: at})
		case <-time.After(15 * time.Second):
			m.note(note{Kind: "untold", Token: token, From: proctest.Monotonic()})
		}
	}
}

// registers works on three keys, with values that nobody writes twice.
func (m *member) registers(ctx context.Context) {
	known := map[string]string{}
	id := os.Getpid()
	for op := 1; ctx.Err() == nil; op++ {
		key := fmt.Sprint("r", rand.IntN(3))
		in := register{Call: []string{"get", "get", "set", "cas", "cas", "cas", "delete"}[rand.IntN(7)], Key: key}
		switch in.Call {
		case "set", "cas":
			in.Expect, in.Value = known[key], fmt.Sprint(id, "-", op)
		}
		from := proctest.Monotonic()
		m.note(note{Kind: "call", Op: op, In: in, From: from})
		out, err := m.call(in)
		if !out.Dropped && !out.Unknown {
			known[key] = out.Value
		}
		m.note(note{Kind: "return", Op: op, Out: out, To: proctest.Monotonic()})
		if m.refused(err) {
			pause(ctx, 100*time.Millisecond)
		}
		pause(ctx, rand.N(25*time.Millisecond))
	}
}

// call carries out one call and says what its answer tells.
func (m *member) call(in register) (registers, error) {
	var out registers
	var err error
	switch in.Call {
	case "get":
		var e services.Entry
		if e, err = m.c.Get(background, in.Key); errors.Is(err, services.ErrNotFound) {
			err = nil
		}
		out = registers{OK: true, Value: string(e.Value)}
	case "set":
		_, err = m.c.Set(background, in.Key, []byte(in.Value), 0)
		out = registers{OK: true, Value: in.Value}
	case "delete":
		out.OK, err = m.c.Delete(background, in.Key)
	case "cas":
		var expect []byte
		if in.Expect != "" {
			expect = []byte(in.Expect)
		}
		var e services.Entry
		out.OK, e, err = m.c.CompareAndSet(background, in.Key, expect, []byte(in.Value), 0)
		out.Value = string(e.Value)
	}
	switch {
	case err == nil:
	case in.Call == "get":
		out = registers{Dropped: true}
	case errors.Is(err, services.ErrCacheUnknown), !isDown(err):
		out = registers{Unknown: true}
	case errors.Is(err, cluster.ErrReplaced):
		out = registers{Unknown: true} // on a store that is not the one of this history
	default:
		out = registers{Dropped: true} // it has not happened and won't
	}
	return out, err
}
