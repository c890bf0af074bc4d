package cluster

import (
	"fmt"

	"github.com/nats-io/nats.go"
)

// Message is one that has come by a Bus. Its Data is the receiver's.
type Message struct {
	Subject string // without the bus's prefix
	Data    []byte

	reply string
	bus   *Bus
}

// Asks tells whether the message is a question.
func (m Message) Asks() bool { return m.reply != "" }

// Answer answers a question, on this goroutine: see Bus. Errors are those of Publish. To a
// message that asks nothing, it does nothing.
func (m Message) Answer(data []byte) error { return m.answer(data, m.bus.now) }

// AnswerAmong is Answer where so many questions are answered at the time: with many, answers
// are sent together. data is the caller's again when it returns.
func (m Message) AnswerAmong(data []byte, crowd int) error {
	return m.answer(data, func(o outgoing) error { return m.bus.send(o, crowd) })
}

// AnswerLater is Answer by the bus's goroutine: it never blocks.
func (m Message) AnswerLater(data []byte) error { return m.answer(data, m.bus.put) }

func (m Message) answer(data []byte, put func(outgoing) error) error {
	if m.reply == "" {
		return nil
	}
	return put(outgoing{subject: m.reply[len(m.bus.prefix):], data: data})
}

// Inbox takes messages one at a time, in the order in which they came, whatever their
// subjects.
type Inbox struct {
	b  *Bus
	ch chan *nats.Msg
}

// Inbox makes one in which as many as limit may wait: what comes while it is full is lost,
// and BusConfig.OnSlow is told. fn runs on a goroutine of the inbox, which ends with Stop.
// It is called behind Start.
func (b *Bus) Inbox(limit int, fn func(Message)) *Inbox {
	in := &Inbox{b: b, ch: make(chan *nats.Msg, limit)}
	run := b.run
	b.bg.Go(func() {
		for {
			select {
			case <-run.Done():
				return
			case m := <-in.ch:
				b.received.Add(1)
				reply := m.Reply
				if len(reply) <= len(b.prefix) || reply[:len(b.prefix)] != b.prefix {
					reply = "" // none, or not for us to write to
				}
				fn(Message{Subject: m.Subject[len(b.prefix):], Data: m.Data, reply: reply, bus: b})
			}
		}
	})
	return in
}

// Len is how many wait.
func (in *Inbox) Len() int { return len(in.ch) }

// Subscription is one to a subject.
type Subscription struct{ sub *nats.Subscription }

// Subscribe has what is sent to the subject come to the inbox: from the next Flush that
// succeeds on, and again after each reconnect. Of those who have subscribed with one queue,
// which may be empty, each message goes to one. It may block for Config.Timeout where the
// servers take nothing, as End may. ErrUnavailable behind Stop.
func (in *Inbox) Subscribe(subject, queue string) (*Subscription, error) {
	nc := in.b.conn.Load()
	if nc == nil {
		return nil, ErrUnavailable
	}
	subscribe := func() (*nats.Subscription, error) { return nc.ChanSubscribe(in.b.prefix+subject, in.ch) }
	if queue != "" {
		subscribe = func() (*nats.Subscription, error) { return nc.ChanQueueSubscribe(in.b.prefix+subject, queue, in.ch) }
	}
	sub, err := subscribe()
	if err != nil {
		return nil, fmt.Errorf("%w: subscribe to %s: %w", ErrUnavailable, subject, err)
	}
	return &Subscription{sub}, nil
}

// End ends it. Messages that have come before are still given to the inbox.
func (s *Subscription) End() {
	_ = s.sub.Unsubscribe() // it fails only where the connection has been closed
}
