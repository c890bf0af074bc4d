package engine

import (
	"fmt"
	"testing"
	"time"

	"millrace/codec"
)

// The number of accounts is limited, however many handles and tags there are.
func TestAccountsAreBounded(t *testing.T) {
	srv := serve(t, Config{Overload: Overload{Costs: true}}, &funcs{read: func(s *Session, p codec.Packet) {
		s.SetTag(fmt.Sprint(p.Sub))
		s.Reply(p, nil)
	}})
	c := dial(t, srv)
	r := srv.CostReader()
	const n = 2 * maxHandles
	for from := 0; from < n; from += 64 {
		var b []byte
		for i := range 64 {
			b = append(b, frame(1, uint16(from+i), "")...)
		}
		c.Write(b)
		for i := range 64 {
			c.expect(1, uint16(from+i), "")
		}
	}
	got := r.Next(10_000)
	if len(got.Handles) > maxHandles+2 || len(got.Tags) > maxTags+2 {
		t.Errorf("%d handles, %d tags have accounts", len(got.Handles), len(got.Tags))
	}
	var others time.Duration
	for _, x := range got.Handles {
		if x.Other {
			others = x.Busy
		}
	}
	if others == 0 {
		t.Error("handles without an account cost nothing")
	}
}

// knower is a handler that serves 1/1 to 1/9.
type knower struct{ funcs }

func (*knower) Knows(handle uint32) bool {
	main, sub := codec.Split(handle)
	return main == 1 && sub < 10
}

// Handles that peers invent get no account, however many come first. Handles that are served keep
// theirs, the cost of the others is reported as one sum, and nothing is lost.
func TestInventedHandlesTakeNoAccount(t *testing.T) {
	for _, d := range dispatches {
		t.Run(d.String(), func(t *testing.T) {
			t.Parallel()
			h := &knower{}
			h.read = func(s *Session, p codec.Packet) {
				if !h.Knows(p.Handle()) {
					s.ReplyError(p, CodeUnknownHandle, "unknown")
					return
				}
				s.Reply(p, p.Body)
			}
			srv := serve(t, Config{Dispatch: d, Overload: Overload{Costs: true}, Handles: map[uint32]Dispatch{7<<16 | 7: Ordered}}, h)
			r := srv.CostReader()
			c := dial(t, srv)
			const n = 2 * maxHandles
			for from := 0; from < n; from += 64 {
				var b []byte
				for i := range 64 {
					b = append(b, frame(9, uint16(from+i), "")...)
				}
				c.Write(b)
				for i := range 64 {
					c.expectError(CodeUnknownHandle, 9<<16|uint32(from+i))
				}
			}
			if got := len(*srv.costs.handles.Load()); got != 1 {
				t.Fatalf("%d accounts behind %d handles that nobody serves, want that of 7/7", got, n)
			}
			for range 20 {
				c.send(1, 1, "x")
				c.expect(1, 1, "x")
			}
			c.send(7, 7, "named by Config.Handles")
			c.expectError(CodeUnknownHandle, 7<<16|7)
			var all Costs
			waitFor(t, "the last turns", func() bool {
				all = srv.costsSoFar(r)
				s, h, g := all.sums()
				return s == all.Busy && h == all.Busy && g == all.Busy
			})
			cost := map[string]time.Duration{}
			for _, x := range all.Handles {
				cost[fmt.Sprint(x.Main, "/", x.Sub, " ", x.Other)] = x.Busy
			}
			if len(cost) != 4 || cost["1/1 false"] == 0 || cost["7/7 false"] == 0 || cost["0/0 false"] == 0 || cost["0/0 true"] == 0 {
				t.Errorf("accounts: %v, want 1/1, 7/7, what is no request's, and the others", cost)
			}
			total := srv.Costs()
			if _, handles, tags := total.sums(); handles != total.Busy || tags != total.Busy || total.Busy < all.Busy || total.For <= 0 || total.Sessions != nil {
				t.Errorf("in all %+v, and %v before", total, all.Busy)
			}
		})
	}
}

// A session's own figures: what it cost, and how long its requests waited for a worker.
func TestASessionSaysWhatItCostAndWaited(t *testing.T) {
	gate, inside := make(chan struct{}), make(chan *Session, 2)
	srv := serve(t, Config{Dispatch: Ordered, Workers: 1, SpareWorkers: Off, Overload: Overload{Costs: true}}, &funcs{read: func(s *Session, p codec.Packet) {
		switch p.Sub {
		case 2:
			inside <- s
			<-gate
		case 3:
			s.SetTag("gold")
			inside <- s
		}
		s.Reply(p, p.Body)
	}})
	holder, waiter := dial(t, srv), dial(t, srv)
	waiter.send(1, 3, "")
	waiter.expect(1, 3, "")
	s := <-inside
	holder.send(1, 2, "") // has the only worker
	holds := <-inside
	before := s.Stats()
	waiter.send(1, 1, "x")
	const least = 30 * time.Millisecond
	waitFor(t, "a wait that shows while it lasts", func() bool { return s.Stats().Waited >= before.Waited+least })
	close(gate)
	waiter.expect(1, 1, "x")
	holder.expect(1, 2, "")
	after := s.Stats()
	if after.Waited < before.Waited+least || after.Waited > time.Hour {
		t.Errorf("it waited for %v, and before for %v", after.Waited, before.Waited)
	}
	waitFor(t, "the cost of the last turn", func() bool { return s.Stats().Busy > before.Busy })
	if n := holds.Stats().Waited; n > after.Waited {
		t.Errorf("who held the worker waited for %v, who waited for it %v", n, after.Waited)
	}
	if s.Tag() != "gold" || holds.Tag() != "" {
		t.Errorf("tags %q and %q", s.Tag(), holds.Tag())
	}
	off := serve(t, Config{}, &funcs{read: echo})
	c := dial(t, off)
	c.send(1, 1, "x")
	c.expect(1, 1, "x")
	off.Sessions(func(s *Session) bool {
		if st := s.Stats(); st.Busy != 0 || st.Waited != 0 || s.Tag() != "" {
			t.Errorf("without an account: %+v", st)
		}
		return true
	})
}

// Tags that no session uses are replaced by new ones, so inventing many tags does not displace those
// in use; nothing is lost or counted twice.
func TestTagsThatNobodyHasGiveWay(t *testing.T) {
	srv := serve(t, Config{Dispatch: Ordered, Overload: Overload{Costs: true}}, &funcs{read: func(s *Session, p codec.Packet) {
		s.SetTag(string(p.Body))
		s.Reply(p, nil)
	}})
	gold, many := dial(t, srv), dial(t, srv)
	tag := func(c *client, name string) {
		c.send(1, 1, name)
		c.expect(1, 1, "")
	}
	tag(gold, "gold")
	r := srv.CostReader()
	seen := map[string]time.Duration{}
	total := time.Duration(0)
	read := func() {
		got := r.Next(10_000)
		total += got.Busy
		for _, x := range got.Tags {
			seen[x.Tag] += x.Busy
		}
	}
	read()
	const n = 50 * (maxTags / 20) // more than twice as many
	for from := 0; from < n; from += 50 {
		var b []byte
		for i := range 50 {
			b = append(b, frame(1, 1, fmt.Sprint("tag ", from+i))...)
		}
		many.Write(b)
		for range 50 {
			many.expect(1, 1, "")
		}
		if from%500 == 0 {
			tag(gold, "gold")
			read()
		}
	}
	tag(gold, "gold")
	sum := time.Duration(0)
	last, named := fmt.Sprint("tag ", n-1), map[string]bool{}
	waitFor(t, "the last turns", func() bool {
		read()
		all := srv.Costs()
		_, handles, tags := all.sums()
		clear(named)
		for _, x := range all.Tags {
			named[x.Tag] = true
		}
		return handles == all.Busy && tags == all.Busy && named["gold"] && named[last] && named[moreTags]
	})
	for _, d := range seen {
		sum += d
	}
	if d := sum - total; d.Abs() > total/50 { // a turn may be half charged at a look
		t.Errorf("%v in all, the tags %v", total, sum)
	}
	srv.costs.mu.Lock()
	known := len(srv.costs.tags)
	srv.costs.mu.Unlock()
	if known != maxTags || srv.Costs().Tags == nil {
		t.Errorf("%d tags have accounts, want %d", known, maxTags)
	}
	many.Close()
	waitFor(t, "it to go", func() bool { return srv.Stats().Conns == 1 })
	tag(gold, "bronze")
	waitFor(t, "each tag to be held by the sessions that are there", func() bool {
		srv.costs.mu.Lock()
		defer srv.costs.mu.Unlock()
		for name, a := range srv.costs.tags {
			if want := map[string]int{"bronze": 1}[name]; a.held != want {
				return false
			}
		}
		return true
	})
}
