package hostile

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// healthy is a client that behaves: it reads all that comes, has few requests in flight,
// and checks each answer.
type healthy struct {
	c    *client
	id   int
	stop chan struct{}
	room chan struct{} // a token for each request in flight

	mu       sync.Mutex // also held while a frame is written
	replies  []owed     // what is owed, in order
	casts    []owed     // own broadcasts on their way, in order
	own      []int      // numbers of own broadcasts that came back
	seen     [][]int    // numbers of the others' broadcasts, by sender
	refused  int
	took     []time.Duration // of echoes
	fault    error           // the first
	finished bool            // rest was called
	wrote    chan struct{}   // closed when the last request is written
}

// owed is a request without an outcome.
type owed struct {
	main, sub uint16
	text      string // in the answer
	n         int
	at        time.Time
}

const inFlight = 8

// behave connects n clients and, when the server knows them all, lets them work until
// rest: from then on a broadcast of one reaches the others.
func behave(s *server, n int) []*healthy {
	all := make([]*healthy, n)
	for i := range all {
		all[i] = &healthy{c: s.dial(), id: i, stop: make(chan struct{}), room: make(chan struct{}, inFlight), wrote: make(chan struct{}), seen: make([][]int, n)}
		all[i].c.want(1, 1, "here", "here")
	}
	for _, h := range all {
		go h.read()
		go h.write()
	}
	return all
}

func (h *healthy) fail(format string, args ...any) {
	if h.fault == nil {
		h.fault = fmt.Errorf(format, args...)
	}
}

func (h *healthy) write() {
	defer close(h.wrote)
	for n := 1; ; n++ {
		select {
		case <-h.stop:
			return
		case h.room <- struct{}{}:
		}
		o := owed{main: 1, sub: 1, n: n, at: time.Now(), text: fmt.Sprintf("echo %d of %d", n, h.id)}
		body := o.text
		switch {
		case n%16 == 5:
			o.sub = 2
			o.text = fmt.Sprintf("h %d %d", h.id, n)
			body = o.text
		case n%16 == 9:
			o.main, o.sub, o.text = 4, 3, fmt.Sprintf(`"sum":%d`, n+h.id)
			body = fmt.Sprintf(`{"a":%d,"b":%d}`, n, h.id)
		case n%16 == 13:
			o.text = o.text + strings.Repeat(".", 8*kib)
			body = o.text
		}
		h.mu.Lock()
		if o.main == 1 && o.sub == 2 {
			h.casts = append(h.casts, o)
		} else {
			h.replies = append(h.replies, o)
		}
		if err := h.c.send(o.main, o.sub, body); err != nil {
			h.fail("write %d: %w", n, err)
		}
		broken := h.fault != nil
		h.mu.Unlock()
		if broken {
			return
		}
		if n%inFlight == 0 {
			select {
			case <-h.stop:
				return
			case <-time.After(4 * time.Millisecond):
			}
		}
	}
}

func (h *healthy) read() {
	for {
		f, err := h.c.next(30 * time.Second)
		h.mu.Lock()
		if err == nil {
			h.take(f)
		} else if !h.finished || len(h.replies)+len(h.casts) > 0 {
			h.fail("the connection ends with %d requests in flight: %w", len(h.replies)+len(h.casts), err)
		}
		broken := h.fault != nil
		h.mu.Unlock()
		if err != nil || broken {
			return
		}
	}
}

// take gives f to the request that it is the outcome of. h.mu is held.
func (h *healthy) take(f frame) {
	switch code, handle := f.errorCode(); {
	case f.is(0, 1):
		h.c.send(0, 2, f.body)
	case f.is(1, 2):
		h.takeCast(f)
	case f.is(0, 3) && code == 4 && handle == 1<<16|2:
		h.refused++
		h.outcome(&h.casts, frame{1, 2, ""})
	case f.is(0, 3) && code == 4:
		h.refused++
		h.outcome(&h.replies, frame{uint16(handle >> 16), uint16(handle), ""})
	default:
		if o, ok := h.outcome(&h.replies, f); ok && f.is(1, 1) {
			h.took = append(h.took, time.Since(o.at))
		}
	}
}

// outcome takes the first of the requests, which must fit f; an empty body fits any.
func (h *healthy) outcome(from *[]owed, f frame) (owed, bool) {
	if len(*from) == 0 {
		h.fail("got %v, and nothing of its kind is owed", f)
		return owed{}, false
	}
	o := (*from)[0]
	if *from = (*from)[1:]; !f.is(o.main, o.sub) || f.body != "" && !strings.Contains(f.body, o.text) {
		h.fail("got %v, want the outcome of %d/%d number %d with %.40q", f, o.main, o.sub, o.n, o.text)
		return o, false
	}
	<-h.room
	return o, true
}

// takeCast takes a broadcast: an own one is the outcome of its request, another's must be
// newer than the last of the same sender.
func (h *healthy) takeCast(f frame) {
	var id, n int
	if c, _ := fmt.Sscanf(f.body, "h %d %d", &id, &n); c != 2 {
		return // of a client that misbehaves
	}
	if id == h.id {
		if _, ok := h.outcome(&h.casts, f); ok {
			h.own = append(h.own, n)
		}
		return
	}
	if l := len(h.seen[id]); l > 0 && n <= h.seen[id][l-1] {
		h.fail("broadcast %d of client %d after its %d", n, id, h.seen[id][l-1])
	}
	h.seen[id] = append(h.seen[id], n)
}

// rest ends the requests of all; what is in flight goes on. The last of each is written
// when it returns: one written during a check would be missed by whom was checked before.
func rest(all []*healthy) {
	for _, h := range all {
		h.mu.Lock()
		h.finished = true
		h.mu.Unlock()
		close(h.stop)
	}
	for _, h := range all {
		<-h.wrote
	}
}

// check waits for the outcomes that are due and for the others' broadcasts that came back
// to their senders, and returns what is wrong.
func (h *healthy) check(all []*healthy, within time.Duration) error {
	poll(within, func() bool {
		h.mu.Lock()
		done := h.fault != nil || len(h.replies)+len(h.casts) == 0
		h.mu.Unlock()
		if !done {
			return false
		}
		for _, other := range all {
			if other.id != h.id && h.missing(other) > 0 {
				return false
			}
		}
		return true
	})
	for _, other := range all {
		if n := h.missing(other); other.id != h.id && n > 0 {
			h.mu.Lock()
			h.fail("%d broadcasts of client %d never came", n, other.id)
			h.mu.Unlock()
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fault == nil && len(h.replies)+len(h.casts) > 0 {
		h.fail("%d replies and %d broadcasts have no outcome after %v", len(h.replies), len(h.casts), within)
	}
	return h.fault
}

// missing counts the broadcasts that came back to their sender and not to h.
func (h *healthy) missing(sender *healthy) int {
	sender.mu.Lock()
	own := sender.own[:len(sender.own):len(sender.own)]
	sender.mu.Unlock()
	h.mu.Lock()
	defer h.mu.Unlock()
	got, missing := h.seen[sender.id], 0
	for _, n := range own {
		for len(got) > 0 && got[0] < n {
			got = got[1:]
		}
		if len(got) == 0 || got[0] != n {
			missing++
		}
	}
	return missing
}
