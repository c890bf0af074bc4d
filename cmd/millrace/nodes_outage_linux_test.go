package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// done is one request of a load that goes on while NATS servers come and go.
type done struct {
	from, to time.Time
	ok       bool
	about    string // the room, the user or the message
	first    int64  // the room's token, the bind's epoch
	second   int64  // the room's value
}

// member is a session that has a user and is a member of a group: what it has seen.
type member struct {
	c    *peer
	node int
	user string

	mu     sync.Mutex
	last   map[string]int       // guarded by mu; of each sender the last number
	came   map[string]time.Time // guarded by mu; when
	quiet  time.Duration        // guarded by mu; the longest time without one of another node
	missed map[string]int       // guarded by mu; by sender
	sent   map[string]int       // guarded by mu; messages to the user
	bad    []string             // guarded by mu
}

func (l *member) listen(nodes []string) {
	for {
		f, err := l.c.next()
		l.mu.Lock()
		if err != nil {
			l.bad = append(l.bad, err.Error()) // it is looked at before the end
			l.mu.Unlock()
			return
		}
		l.see(f, nodes)
		l.mu.Unlock()
	}
}

// see takes in a frame. mu is held.
func (l *member) see(f packet, nodes []string) {
	var push struct{ Data string }
	switch {
	case f.main == 6 && f.sub == 6 && json.Unmarshal([]byte(f.body), &push) == nil:
		l.sent[push.Data]++
		if n := l.sent[push.Data]; n > 1 {
			l.bad = append(l.bad, fmt.Sprintf("%s has come %d times", push.Data, n))
		}
	case f.main == 1 && f.sub == 8 && json.Unmarshal([]byte(f.body), &push) == nil:
		var from string
		var n int
		if _, err := fmt.Sscanf(push.Data, "%s %d", &from, &n); err != nil {
			l.bad = append(l.bad, f.body)
			return
		}
		last := l.last[from]
		switch {
		case n <= last:
			l.bad = append(l.bad, fmt.Sprintf("%s: %d behind %d", from, n, last))
		case n > last+1:
			l.missed[from] += n - last - 1
		}
		l.last[from] = n
		if was, ok := l.came[from]; ok && from != nodes[l.node] {
			l.quiet = max(l.quiet, time.Since(was))
		}
		l.came[from] = time.Now()
	default:
		l.bad = append(l.bad, fmt.Sprint(f))
	}
}

// outage is a load over three nodes on three NATS servers.
type outage struct {
	t       *testing.T
	nodes   []*process
	names   []string
	members []*member

	stop  chan struct{}
	work  sync.WaitGroup
	sends [3]atomic.Int64 // to the group, by node

	mu                 sync.Mutex
	rooms, binds, user []done // guarded by mu
}

// try is a request; not ok: an ERROR. It makes a new connection where the last one has ended.
func (o *outage) try(c **peer, node int, main, sub uint16, body string) (obj map[string]any, ok bool) {
	for {
		if *c == nil {
			*c = dialAddr(o.t, o.nodes[node].ready[0])
		}
		if _, err := (*c).Write(packet{main, sub, body}.bytes()); err == nil {
			for {
				f, err := (*c).next()
				if err != nil {
					break
				}
				if code, about, is := parseErrorFrame(f); is && about == uint32(main)<<16|uint32(sub) {
					if code == 9 { // another has the user: the session ends
						(*c).Close()
						*c = nil
					}
					return nil, false
				}
				if f.main == main && f.sub == sub && json.Unmarshal([]byte(f.body), &obj) == nil {
					return obj, true
				}
			}
		}
		(*c).Close()
		*c = nil
		if o.over() {
			return nil, false
		}
	}
}

func (o *outage) over() bool {
	select {
	case <-o.stop:
		return true
	default:
		return false
	}
}

// during has fn run on each node again and again, until stop.
func (o *outage) during(fn func(node int, c **peer)) {
	for node := range o.nodes {
		o.work.Go(func() {
			var c *peer
			for !o.over() {
				fn(node, &c)
				select {
				case <-o.stop:
				case <-time.After(10 * time.Millisecond):
				}
			}
			if c != nil {
				c.Close()
			}
		})
	}
}

func (o *outage) note(to *[]done, d done) {
	d.to = time.Now()
	o.mu.Lock()
	defer o.mu.Unlock()
	*to = append(*to, d)
}

func whole(obj map[string]any, key string) int64 {
	n, _ := obj[key].(float64)
	return int64(n)
}

// load is what goes on: sends to the group, adds to rooms, logins of users who are fought
// for, and sends to those that are not.
func (o *outage) load() {
	o.during(func(node int, c **peer) {
		n := o.sends[node].Add(1)
		o.try(c, node, 1, 7, fmt.Sprintf(`{"group":"load","data":"%s %d"}`, o.names[node], n))
	})
	o.during(func(node int, c **peer) {
		d := done{from: time.Now(), about: fmt.Sprint("room", rand.IntN(3))}
		obj, ok := o.try(c, node, 6, 5, fmt.Sprintf(`{"room":%q,"add":1}`, d.about))
		d.ok, d.first, d.second = ok, whole(obj, "token"), whole(obj, "value")
		o.note(&o.rooms, d)
	})
	o.during(func(node int, c **peer) {
		d := done{from: time.Now(), about: fmt.Sprint("rival", rand.IntN(3))}
		obj, ok := o.try(c, node, 6, 3, fmt.Sprintf(`{"user":%q}`, d.about))
		d.ok, d.first = ok, whole(obj, "epoch")
		o.note(&o.binds, d)
	})
	var ids atomic.Int64
	o.during(func(node int, c **peer) {
		to := o.members[rand.IntN(len(o.members))]
		d := done{from: time.Now(), about: fmt.Sprint(to.user, " ", ids.Add(1))}
		obj, ok := o.try(c, node, 6, 4, fmt.Sprintf(`{"user":%q,"data":%q}`, to.user, d.about))
		d.ok = ok && obj["sent"] == true
		o.note(&o.user, d)
	})
}

// begin starts three nodes and so many sessions on each, with a user each, in one group.
func begin(t *testing.T, url string, each int, lease time.Duration) *outage {
	o := &outage{t: t, names: []string{"a", "b", "c"}, stop: make(chan struct{})}
	for _, name := range o.names {
		o.nodes = append(o.nodes, serve(t, "--cluster="+url, "--cluster-replicas=3", "--node="+name, "--cluster-lease="+lease.String(), "--max-conns=5000", "--first-frame-timeout=0", "--log-level=warn"))
	}
	for _, n := range o.nodes {
		n.dial().knows("a=up b=up c=up")
	}
	for node, n := range o.nodes {
		for k := range each {
			c := n.dial()
			_ = c.SetDeadline(time.Time{})
			o.members = append(o.members, &member{c: c, node: node, user: fmt.Sprintf("user-%s-%d", o.names[node], k),
				last: map[string]int{}, came: map[string]time.Time{}, missed: map[string]int{}, sent: map[string]int{}})
		}
	}
	places := make(chan struct{}, 16)
	var logins sync.WaitGroup
	for _, l := range o.members {
		places <- struct{}{}
		logins.Go(func() {
			defer func() { <-places }()
			for sub, body := range map[uint16]string{5: `{"group":"load"}`, 3: fmt.Sprintf(`{"user":%q}`, l.user)} {
				main := map[uint16]uint16{5: 1, 3: 6}[sub]
				if _, err := l.c.Write(packet{main, sub, body}.bytes()); err != nil {
					t.Error(err)
				}
				if f, err := l.c.next(); err != nil || f.main != main || f.sub != sub {
					t.Errorf("%d/%d: %v, %v", main, sub, f, err)
				}
			}
		})
	}
	logins.Wait()
	if t.Failed() {
		t.FailNow()
	}
	for _, l := range o.members {
		go l.listen(o.names) // until its connection is closed
	}
	return o
}

// heal waits until everything works again, and ends the load.
func (o *outage) heal() {
	o.t.Helper()
	for _, n := range o.nodes {
		n.dial().knows("a=up b=up c=up")
	}
	healed := time.Now()
	soon(o.t, patience, "rooms, logins and sends work again", func() bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		return !slices.ContainsFunc([][]done{o.rooms, o.binds, o.user}, func(of []done) bool {
			return !slices.ContainsFunc(of, func(d done) bool { return d.ok && d.from.After(healed) })
		})
	})
}

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
		if n > 0 && !strings.Contains(o.nodes[i].log(), "messages from another node were lost") {
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
