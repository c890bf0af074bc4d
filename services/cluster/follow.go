package cluster

import (
	"context"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// signal wakes all goroutines that wait for its next firing.
type signal struct {
	mu sync.Mutex
	c  chan struct{}
}

func newSignal() *signal { return &signal{c: make(chan struct{})} }

func (s *signal) fire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.c)
	s.c = make(chan struct{})
}

// next returns a channel that is closed at the next firing.
func (s *signal) next() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.c
}

// observer receives what follow sees. Its functions are called by one goroutine at a time.
type observer struct {
	begin func()                     // all present records follow, once more
	see   func(key string, r record) // a record, or a change
	whole func()                     // all present records have been seen
}

// follow reports to o the records of the subjects that match pattern, then every change in order,
// until ctx ends. At every firing of again, which includes each reconnect, it starts over at once:
// the library's own consumer would not receive anything for up to twenty seconds, and keys deleted
// meanwhile leave no marker.
func (b *bucket) follow(ctx context.Context, pattern string, again *signal, o observer) {
	const soon = 250 * time.Millisecond // a server that has just started may swallow a request
	patience := soon
	for ctx.Err() == nil {
		next := again.next()
		w := &following{b: b, o: o}
		run, end := context.WithCancel(ctx)
		giveUp := time.AfterFunc(min(patience, b.timeout), end)
		err := w.subscribe(run, pattern)
		if !giveUp.Stop() || err != nil {
			patience = min(2*patience, b.timeout)
			w.end()
			end()
			select {
			case <-ctx.Done():
			case <-next:
			case <-time.After(retryDelay):
			}
			continue
		}
		patience = soon
		select {
		case <-ctx.Done():
		case <-next:
		}
		w.end()
		end() // makes the library unsubscribe
	}
}

// following is one consumer.
type following struct {
	b *bucket
	o observer

	mu      sync.Mutex
	ended   bool
	settled bool // whole has been called
	seen    uint64
	pending uint64 // number of records at the start
}

// subscribe makes the consumer, which lasts as long as ctx.
func (w *following) subscribe(ctx context.Context, pattern string) error {
	w.mu.Lock() // delays the messages until their number is known
	defer w.mu.Unlock()
	w.o.begin()
	sub, err := w.b.push.Subscribe(w.b.prefix+pattern, w.message, nats.BindStream(w.b.name),
		nats.OrderedConsumer(), nats.DeliverLastPerSubject(), nats.Context(ctx))
	if err != nil {
		return err
	}
	if w.pending, err = sub.InitialConsumerPending(); err != nil {
		return err
	}
	w.settle()
	return nil
}

// message runs on the subscription's goroutine.
func (w *following) message(m *nats.Msg) {
	meta, err := m.Metadata()
	if err != nil || len(m.Subject) <= len(w.b.prefix) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return
	}
	w.b.saw(meta.Sequence.Stream)
	w.o.see(m.Subject[len(w.b.prefix):], newRecord(meta.Sequence.Stream, m.Header, m.Data, meta.Timestamp))
	w.seen++
	if meta.NumPending == 0 {
		w.seen = max(w.seen, w.pending)
	}
	w.settle()
}

// settle calls whole, once, when all present records were seen. w.mu is held.
func (w *following) settle() {
	if !w.settled && w.seen >= w.pending {
		w.settled = true
		w.o.whole()
	}
}

// end prevents further calls of the observer.
func (w *following) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
}
