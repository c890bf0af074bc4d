package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
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
