package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// longest is the longest time without one that was done, from one's answer to the next's.
func longest(of []done) (without time.Duration) {
	var last time.Time
	of = slices.DeleteFunc(slices.Clone(of), func(d done) bool { return !d.ok })
	slices.SortFunc(of, func(a, b done) int { return a.to.Compare(b.to) })
	for _, d := range of {
		if !last.IsZero() {
			without = max(without, d.to.Sub(last))
		}
		last = d.to
	}
	return without
}

// ordered says what is wrong with pairs that grow with time for each room or user, and are
// each given once.
func ordered(of []done) error {
	by := map[string][]done{}
	for _, d := range of {
		if d.ok {
			by[d.about] = append(by[d.about], d)
		}
	}
	pair := func(a, b done) int { return cmp.Or(cmp.Compare(a.first, b.first), cmp.Compare(a.second, b.second)) }
	for about, all := range by {
		slices.SortFunc(all, pair)
		began := all[0] // the latest that was asked for of those so far
		for i, d := range all[1:] {
			if pair(all[i], d) == 0 {
				return fmt.Errorf("%s: %d.%d was given twice", about, d.first, d.second)
			}
			if d.to.Before(began.from) {
				return fmt.Errorf("%s: %d.%d was answered %v before %d.%d was asked for", about, d.first, d.second, began.from.Sub(d.to), began.first, began.second)
			}
			if d.from.After(began.from) {
				began = d
			}
		}
	}
	return nil
}

func TestWhatGrowsWithTime(t *testing.T) {
	now := time.Now()
	at := func(from, to int, first, second int64) done {
		return done{from: now.Add(time.Duration(from)), to: now.Add(time.Duration(to)), ok: true, about: "r", first: first, second: second}
	}
	for _, c := range []struct {
		name string
		of   []done
		bad  bool
	}{
		{"one after the other", []done{at(1, 2, 7, 1), at(3, 4, 7, 2), at(5, 6, 9, 1)}, false},
		{"at the same time", []done{at(1, 9, 7, 2), at(2, 8, 7, 1)}, false},
		{"the old home goes on", []done{at(1, 2, 7, 1), at(3, 4, 9, 1), at(5, 6, 7, 2)}, true},
		{"given twice", []done{at(1, 2, 7, 1), at(3, 4, 7, 1)}, true},
	} {
		if err := ordered(c.of); (err != nil) != c.bad {
			t.Errorf("%s: got %v", c.name, err)
		}
	}
}

// judge looks at what every client has seen.
func (o *outage) judge() {
	t := o.t
	for i, n := range o.names { // the last of each, which all get
		last := o.sends[i].Add(1)
		var c *peer
		if _, ok := o.try(&c, i, 1, 7, fmt.Sprintf(`{"group":"load","data":"%s %d"}`, n, last)); !ok {
			t.Errorf("the last 1/7 of %s is refused", n)
		}
		c.Close()
	}
	finals := map[string]*member{}
	for i, l := range o.members { // every user is reached, from another node
		var c *peer
		text := "final " + l.user
		obj, ok := o.try(&c, (l.node+1+i%2)%3, 6, 4, fmt.Sprintf(`{"user":%q,"data":%q}`, l.user, text))
		if !ok || obj["sent"] != true {
			t.Errorf("6/4 to %s at the end: %v, %v", l.user, obj, ok)
		}
		c.Close()
		finals[text] = l
	}
	soon(t, patience, "all have come", func() bool {
		for text, l := range finals {
			l.mu.Lock()
			all := l.sent[text] == 1
			for i, n := range o.names {
				all = all && l.last[n] == int(o.sends[i].Load())
			}
			l.mu.Unlock()
			if !all {
				return false
			}
		}
		return true
	})
	o.mu.Lock()
	defer o.mu.Unlock()
	for what, of := range map[string][]done{"rooms": o.rooms, "logins": o.binds} {
		if err := ordered(of); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	missed := [3]int{}
	of := map[string]*member{}
	for _, l := range o.members {
		l.mu.Lock()
		if len(l.bad) > 0 {
			t.Errorf("%s has seen %q", l.user, l.bad[:min(len(l.bad), 5)])
		}
		all := 0
		for _, n := range l.missed {
			all += n
		}
		missed[l.node] = max(missed[l.node], all)
		l.mu.Unlock()
		of[l.user] = l
	}
	for i, n := range missed {
		if n > 0 && !o.nodes[i].says("messages from another node were lost") {
			t.Errorf("a client of %s has missed %d messages, and %s does not tell", o.names[i], n, o.names[i])
		}
	}
	nobody := 0
	for _, d := range o.user {
		name, _, _ := strings.Cut(d.about, " ")
		l := of[name]
		l.mu.Lock()
		n := l.sent[d.about]
		l.mu.Unlock()
		if d.ok && n != 1 {
			t.Errorf("%s was sent, and has come %d times", d.about, n)
		}
		if !d.ok {
			nobody++
		}
	}
	t.Logf("%d adds, %d logins, %d sends to users (%d refused), messages of the group missed by a client of each node %v", len(o.rooms), len(o.binds), len(o.user), nobody, missed)
}

// tell tells how long what was not to be had until now.
func (o *outage) tell(when string) {
	quiet := time.Duration(0)
	for _, l := range o.members {
		l.mu.Lock()
		quiet = max(quiet, l.quiet)
		l.mu.Unlock()
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	ms := func(of []done) time.Duration { return longest(of).Round(time.Millisecond) }
	o.t.Logf("with %s the longest time without a message of another node is %v, a room's answer %v, a login %v, a message to a user %v",
		when, quiet.Round(time.Millisecond), ms(o.rooms), ms(o.binds), ms(o.user))
}

// Three nodes on three NATS servers, each bucket with a copy on each. The server that leads
// the locks is killed and comes back; with -long there are 3,000 sessions, and then the next
// leader stands still for longer than it takes to choose another, and goes on; and all of it
// again with leases that are longer than that.
func TestNodesOutliveTheLeaderOfTheirStore(t *testing.T) {
	t.Parallel()
	if !*long {
		outlive(t, 20, nodeLease)
		return
	}
	for _, lease := range []time.Duration{nodeLease, 20 * time.Second} {
		t.Run(lease.String(), func(t *testing.T) { outlive(t, 1000, lease) })
	}
}

func outlive(t *testing.T, each int, lease time.Duration) {
	nats := threeNATS(t)
	o := begin(t, nats.url(), each, lease)
	o.load()
	time.Sleep(500 * time.Millisecond) // of peace
	at := nats.leader()
	nats.parts[at].Kill()
	began := time.Now()
	next := nats.leader()
	t.Logf("%s was killed, %s leads after %v", nats.name(at), nats.name(next), time.Since(began).Round(time.Millisecond))
	o.heal()
	o.tell("its death")
	nats.start(at)
	if *long {
		time.Sleep(5 * time.Second) // until it has caught up, mostly
		at := nats.leader()
		_ = nats.parts[at].Cmd.Process.Signal(syscall.SIGSTOP)
		time.Sleep(15 * time.Second) // the others choose another
		_ = nats.parts[at].Cmd.Process.Signal(syscall.SIGCONT)
		t.Logf("%s stood still for 15s, %s leads", nats.name(at), nats.name(nats.leader()))
		o.heal()
		o.tell("its standing still too")
	}
	close(o.stop)
	o.work.Wait()
	o.judge()
}
