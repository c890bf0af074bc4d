package cluster

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// ask is a request in progress. It is reused after its end: results are sent to its channel only
// under Bus.mu, while it is in Bus.asks.
type ask struct {
	id      uint64
	subject string
	results chan result // capacity: the wanted answers and one more
	want    int
	sent    bool // guarded by Bus.mu; it may have reached other processes

	// For AskThen, guarded by Bus.mu; results is nil then.
	then  func([]byte, error) // nil: a goroutine waits
	until time.Time
	timer *time.Timer
}

// result is an answer, or an error.
type result struct {
	data []byte
	err  error
}

// asks1 holds asks for one answer that have ended.
var asks1 = sync.Pool{New: func() any { return &ask{want: 1, results: make(chan result, 2)} }}

// timers holds stopped timers.
var timers = sync.Pool{New: func() any {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}}

// Ask sends a request, and waits for one answer. Errors: ErrUnavailable at once if no process has
// subscribed to the subject; ErrLost; ErrNoAnswer when ctx ends; those of Publish. data belongs to
// the caller again when Ask returns.
func (b *Bus) Ask(ctx context.Context, subject string, data []byte) (answer []byte, err error) {
	return b.AskUntil(ctx, time.Time{}, subject, data)
}

// AskUntil is Ask with an additional deadline; zero for none.
func (b *Bus) AskUntil(ctx context.Context, until time.Time, subject string, data []byte) (answer []byte, err error) {
	q, err := b.post(subject, data, 1, true)
	if err != nil {
		return nil, err
	}
	err = q.wait(ctx, until, func(got []byte) { answer = got })
	return answer, err
}

// AskMany is Ask for several answers; it calls each for every answer, on this goroutine.
func (b *Bus) AskMany(ctx context.Context, subject string, data []byte, want int, each func(answer []byte)) error {
	q, err := b.post(subject, data, want, true)
	if err != nil {
		return err
	}
	return q.Wait(ctx, each)
}

// Question is a request sent with Post.
type Question struct {
	b   *Bus
	ask *ask
}

// Post sends a request whose answers are awaited with Wait. It never blocks; errors are those of
// Publish.
func (b *Bus) Post(subject string, data []byte, want int) (Question, error) {
	return b.post(subject, data, want, false)
}

// post sends a request: in order with published messages or, if free, in any order: then data
// belongs to the caller again when the request has ended.
func (b *Bus) post(subject string, data []byte, want int, free bool) (Question, error) {
	var a *ask
	if want == 1 {
		a = asks1.Get().(*ask)
	} else {
		a = &ask{want: want, results: make(chan result, want+1)}
	}
	a.subject, a.sent = subject, false
	b.mu.Lock()
	if len(b.asks) >= b.cfg.MaxAsks {
		b.mu.Unlock()
		b.refused.Add(1)
		return Question{}, ErrOverloaded
	}
	b.last++
	a.id = b.last
	b.asks[a.id] = a
	crowd := len(b.asks)
	b.mu.Unlock()
	o := outgoing{subject: subject, data: data, ask: a.id, reply: b.replyTo(a.id)}
	put := b.put
	if free {
		put = func(o outgoing) error { return b.send(o, crowd) }
	}
	if err := put(o); err != nil {
		b.forget(a)
		return Question{}, err
	}
	return Question{b, a}, nil
}

// replyTo is the subject of the answers to a request.
func (b *Bus) replyTo(id uint64) string {
	var space [128]byte
	return string(strconv.AppendUint(append(space[:0], b.replies...), id, 16))
}

// forget ends a request: no more results are sent to it.
func (b *Bus) forget(a *ask) {
	b.mu.Lock()
	delete(b.asks, a.id)
	b.mu.Unlock()
	if a.want != 1 {
		return
	}
	for len(a.results) > 0 {
		<-a.results
	}
	a.subject = ""
	asks1.Put(a)
}

// Wait waits for the answers, and calls each for every answer, on this goroutine. Call it once.
// Errors are those of Ask.
func (q Question) Wait(ctx context.Context, each func(answer []byte)) error {
	return q.wait(ctx, time.Time{}, each)
}

func (q Question) wait(ctx context.Context, until time.Time, each func(answer []byte)) error {
	a := q.ask
	defer q.b.forget(a)
	var up <-chan time.Time
	if !until.IsZero() {
		t := timers.Get().(*time.Timer)
		t.Reset(time.Until(until))
		defer func() {
			t.Stop() // its channel is empty then
			timers.Put(t)
		}()
		up = t.C
	}
	for range a.want {
		select {
		case got := <-a.results:
			if got.err != nil {
				return got.err
			}
			each(got.data)
		case <-ctx.Done():
			return q.b.timedOut(a)
		case <-up:
			return q.b.timedOut(a)
		}
	}
	return nil
}

// tell passes a result to a request; false if it already has as many as it wants. Bus.mu is held.
func (a *ask) tell(r result) bool {
	select {
	case a.results <- r:
		return true
	default:
		return false
	}
}

// fail ends a request with an error if it is still in progress.
func (b *Bus) fail(id uint64, err error) {
	b.mu.Lock()
	a := b.asks[id]
	if a == nil || a.then == nil {
		if a != nil {
			a.tell(result{err: err})
		}
		b.mu.Unlock()
		return
	}
	then := b.take(a)
	b.mu.Unlock()
	then(nil, err)
}

// Lose ends requests in progress with ErrLost if dead returns true for their subject, because no
// process can answer any more. dead must not block.
func (b *Bus) Lose(dead func(subject string) bool) {
	b.tellAll(func(a *ask) error {
		if a.sent && dead(a.subject) {
			return ErrLost
		}
		return nil
	})
}

// timedOut returns the error for a request whose time is up. If it has not been sent yet, it will
// not be sent.
func (b *Bus) timedOut(a *ask) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.asks, a.id) // so that it is not sent any more
	return a.overdue()
}

// answer runs on the goroutine of the subscription to answers.
func (b *Bus) answer(m *nats.Msg) {
	b.received.Add(1)
	id, _ := strconv.ParseUint(m.Subject[strings.LastIndexByte(m.Subject, '.')+1:], 16, 64) // 0 is no question's
	r := result{data: m.Data}
	if len(m.Data) == 0 && m.Header.Get("Status") == "503" { // no responders
		r = result{err: ErrUnavailable}
	}
	b.mu.Lock()
	a := b.asks[id]
	if a != nil && a.then != nil {
		then := b.take(a)
		b.mu.Unlock()
		then(r.data, r.err)
		return
	}
	if a == nil || !a.tell(r) {
		b.late.Add(1)
	}
	b.mu.Unlock()
}
