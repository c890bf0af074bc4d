package cluster

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
)

// ask is a question under way.
type ask struct {
	id      uint64
	subject string
	answers chan []byte // with room for as many as are wanted
	failed  chan error  // with room for one
	sent    bool        // guarded by Bus.mu; it may be with others
}

// Ask sends a question, and waits for one answer. ErrUnavailable at once when nobody has
// subscribed to the subject; ErrLost; ErrNoAnswer when ctx ends; what Publish says.
func (b *Bus) Ask(ctx context.Context, subject string, data []byte) (answer []byte, err error) {
	err = b.AskMany(ctx, subject, data, 1, func(got []byte) { answer = got })
	return answer, err
}

// AskMany is Ask for that many answers; each is called for every one, on this goroutine.
func (b *Bus) AskMany(ctx context.Context, subject string, data []byte, want int, each func(answer []byte)) error {
	q, err := b.post(subject, data, want, b.now)
	if err != nil {
		return err
	}
	return q.Wait(ctx, each)
}

// Question is one that was sent by Post.
type Question struct {
	b    *Bus
	ask  *ask
	want int
}

// Post sends a question whose answers Wait waits for. It never blocks; errors are Publish's.
func (b *Bus) Post(subject string, data []byte, want int) (Question, error) {
	return b.post(subject, data, want, b.put)
}

func (b *Bus) post(subject string, data []byte, want int, put func(outgoing) error) (Question, error) {
	a := &ask{subject: subject, answers: make(chan []byte, want), failed: make(chan error, 1)}
	b.mu.Lock()
	if len(b.asks) >= b.cfg.MaxAsks {
		b.mu.Unlock()
		b.refused.Add(1)
		return Question{}, ErrOverloaded
	}
	b.last++
	a.id = b.last
	b.asks[a.id] = a
	b.mu.Unlock()
	reply := b.prefix + "r." + b.c.proc + "." + strconv.FormatUint(a.id, 16)
	if err := put(outgoing{subject: subject, data: data, ask: a, reply: reply}); err != nil {
		b.forget(a)
		return Question{}, err
	}
	return Question{b, a, want}, nil
}

func (b *Bus) forget(a *ask) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.asks, a.id)
}

// Wait waits for the answers, and calls each for every one, on this goroutine. It is called
// once. Errors are Ask's.
func (q Question) Wait(ctx context.Context, each func(answer []byte)) error {
	defer q.b.forget(q.ask)
	for range q.want {
		select {
		case got := <-q.ask.answers:
			each(got)
		case err := <-q.ask.failed:
			return err
		case <-ctx.Done():
			return q.b.timedOut(q.ask)
		case <-q.b.run.Done():
			return ErrLost
		}
	}
	return nil
}

// Lose ends the questions under way to subjects of which dead says that nobody is there any
// more who could answer, with ErrLost. dead must not block.
func (b *Bus) Lose(dead func(subject string) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, a := range b.asks {
		if a.sent && dead(a.subject) {
			a.fail(ErrLost)
		}
	}
}

// timedOut says what is known of a question whose time is up.
func (b *Bus) timedOut(a *ask) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !a.sent {
		return fmt.Errorf("%w: it waited to be sent for too long", ErrNoAnswer)
	}
	return ErrNoAnswer
}

// answer runs on the goroutine of the subscription to answers.
func (b *Bus) answer(m *nats.Msg) {
	b.received.Add(1)
	id, err := strconv.ParseUint(m.Subject[strings.LastIndexByte(m.Subject, '.')+1:], 16, 64)
	b.mu.Lock()
	a := b.asks[id]
	b.mu.Unlock()
	switch {
	case err != nil || a == nil:
		b.late.Add(1)
	case len(m.Data) == 0 && m.Header.Get("Status") == "503": // no responders
		a.fail(ErrUnavailable)
	default:
		select {
		case a.answers <- m.Data:
		default: // more than were wanted
			b.late.Add(1)
		}
	}
}
