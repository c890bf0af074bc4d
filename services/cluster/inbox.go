package cluster

import (
	"fmt"

	"github.com/nats-io/nats.go"
)

// Message is a message received from a Bus. Its Data belongs to the receiver.
type Message struct {
	Subject string // without the bus's prefix
	Data    []byte

	reply string
	bus   *Bus
}

// Asks reports whether the message is a request.
func (m Message) Asks() bool { return m.reply != "" }

// Answer answers a request, on this goroutine: see Bus. Errors are those of Publish. For a message
// that is not a request it does nothing.
func (m Message) Answer(data []byte) error { return m.answer(data, m.bus.now) }

// AnswerAmong is Answer when crowd requests are being answered at the same time: if there are many,
// answers are batched. data belongs to the caller again when it returns.
func (m Message) AnswerAmong(data []byte, crowd int) error {
	return m.answer(data, func(o outgoing) error { return m.bus.send(o, crowd) })
}

// AnswerLater is Answer on the bus's goroutine: it never blocks.
func (m Message) AnswerLater(data []byte) error { return m.answer(data, m.bus.put) }

func (m Message) answer(data []byte, put func(outgoing) error) error {
	if m.reply == "" {
		return nil
	}
	return put(outgoing{subject: m.reply[len(m.bus.prefix):], data: data})
}

// Inbox receives messages one at a time, in order of arrival, whatever their subjects.
type Inbox struct {
	b  *Bus
	ch chan *nats.Msg
}

// Inbox creates an inbox in which up to limit messages may wait: messages that arrive while it is
// full are lost, and BusConfig.OnSlow is called. fn runs on a goroutine of the inbox, which ends
// with Stop. Call it after Start.
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
					reply = "" // none, or not a subject that we may write to
				}
				fn(Message{Subject: m.Subject[len(b.prefix):], Data: m.Data, reply: reply, bus: b})
			}
		}
	})
	return in
}

// Len returns the number of waiting messages.
func (in *Inbox) Len() int { return len(in.ch) }

// Subscription is a subscription to a subject.
type Subscription struct{ sub *nats.Subscription }

// Subscribe delivers messages for the subject to the inbox: from the next successful Flush on, and
// again after each reconnect. Each message goes to only one of the subscribers with the same queue,
// unless queue is empty. It may block for Config.Timeout if the servers do not read, as End may.
// After Stop it returns ErrUnavailable.
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

// End ends the subscription. Messages received before are still delivered.
func (s *Subscription) End() {
	_ = s.sub.Unsubscribe() // it fails only if the connection is closed
}
