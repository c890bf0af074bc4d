package hostile

import (
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
	"time"
)

// receiver reads all that comes and checks the order of pushes with numbers: 1/2 and 1/8
// whose data begin with six digits, and 2/4.
type receiver struct {
	*client
	answers chan frame // own 1/2 and 1/7, and ERRORs, if someone takes them; closed at the end
	each    bool       // no number may be missing

	mu     sync.Mutex
	n      int // pushes with numbers
	last   int
	fault  error // a push out of order
	closed error // what ended the stream
}

// receive starts to read c. The numbers begin at 1 and only grow, one by one if each is true.
func receive(c *client, each bool) *receiver {
	r := &receiver{client: c, each: each, answers: make(chan frame, 4096)}
	go func() {
		defer close(r.answers)
		for {
			f, err := c.next(time.Minute)
			if err != nil {
				r.mu.Lock()
				r.closed = err
				r.mu.Unlock()
				return
			}
			if n := number(f); n > 0 {
				r.take(n)
			}
			if f.is(1, 2) || f.is(1, 7) || f.is(0, 3) {
				select {
				case r.answers <- f:
				default:
				}
			}
		}
	}()
	return r
}

// number returns the number of a push, 0 if f has none.
func number(f frame) int {
	data := f.body
	switch {
	case f.is(2, 4):
		var push struct{ N int }
		json.Unmarshal([]byte(f.body), &push)
		return push.N
	case f.is(1, 8):
		var push struct{ Data string }
		json.Unmarshal([]byte(f.body), &push)
		data = push.Data
	case !f.is(1, 2):
		return 0
	}
	n, _ := strconv.Atoi(data[:min(6, len(data))])
	return n
}

func (r *receiver) take(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if (n <= r.last || r.each && n != r.last+1) && r.fault == nil {
		r.fault = fmt.Errorf("push %d after %d", n, r.last)
	}
	r.last = n
	r.n++
}

func (r *receiver) seen() int  { r.mu.Lock(); defer r.mu.Unlock(); return r.n }
func (r *receiver) err() error { r.mu.Lock(); defer r.mu.Unlock(); return r.fault }
func (r *receiver) end() error { r.mu.Lock(); defer r.mu.Unlock(); return r.closed }
