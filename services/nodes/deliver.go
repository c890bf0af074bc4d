package nodes

import (
	"errors"
	"fmt"
	"time"

	"millrace/engine"
	"millrace/services"
	"millrace/services/cluster"
	"millrace/services/nodes/internal/envelope"
)

// deliver processes messages of other nodes for sessions of this node, and their heartbeats. It is
// the function of the first inbox: one message at a time, in order.
func (n *Node) deliver(m cluster.Message) {
	e, err := envelope.Parse(m.Data)
	if err != nil || e.Source == n.process {
		n.counts.bad.Add(1)
		return
	}
	switch e.Kind {
	case envelope.Send:
		if n.fresh(&n.direct, e, "node") {
			n.deliverSend(e)
		}
	case envelope.User:
		if n.fresh(&n.direct, e, "node") {
			n.answer(m.AnswerLater, n.users.deliver(e))
		}
	case envelope.Replaced:
		if n.fresh(&n.direct, e, "node") {
			n.users.replace(engine.ID(e.Session), e.Key, e.Epoch)
		}
	case envelope.Broadcast:
		if n.fresh(&n.heard, e, subjectAll) {
			main, sub := split(e.Handle)
			n.cross(&n.casts, e, func() error { return n.broadcastHere(main, sub, e.Body) })
		}
	case envelope.Group:
		n.groups.deliver(e)
	case envelope.Members:
		n.groups.learn(e)
	case envelope.Count:
		n.groups.learn(e)
		n.groups.counted(e)
	case envelope.Alive:
		n.missed(e.Source, subjectAll, n.heard.at(n, e.Source, e.Epoch))
		n.casts.past(n, e.Source, e.Epoch)
		n.hear(e)
		if m.Asks() {
			n.all.mu.Lock()
			b, err := n.alive()
			n.all.mu.Unlock()
			if err == nil {
				err = m.AnswerLater(b)
			}
			n.lose(err)
		}
	default:
		n.counts.bad.Add(1)
	}
}

// fresh reports whether e is new in its stream, and reports missing messages before it.
func (n *Node) fresh(in *inbound, e envelope.Envelope, stream string) bool {
	fresh, missed := in.take(n, e.Source, e.Number)
	n.missed(e.Source, stream, missed)
	if !fresh {
		n.counts.doubled.Add(1)
	}
	return fresh
}

// missed reports messages that have not arrived. They may have said that a session has lost its
// user, so bindings are checked.
func (n *Node) missed(from uint64, stream string, count uint64) {
	if count == 0 {
		return
	}
	n.counts.gaps.Add(1)
	n.counts.missed.Add(count)
	gap := Gap{Node: n.known(from), Stream: stream, Missed: count}
	if held, ok := n.gapLine.Due(); ok {
		n.cfg.Logger.Warn("nodes: messages from another node were lost", "from", gap.Node, "stream", stream, "missed", count, "omitted", held)
	}
	n.users.recheck()
	if n.cfg.OnGap != nil {
		n.cfg.OnGap(gap)
	}
}

func (n *Node) deliverSend(e envelope.Envelope) {
	s := n.session(engine.ID(e.Session))
	if s == nil {
		return // it has closed: the message reaches nobody
	}
	main, sub := split(e.Handle)
	n.patiently(e, func() error { return s.Push(main, sub, e.Body) })
}

// patiently gives a frame of another node to the engine, and retries while its outboxes are full;
// later messages wait meanwhile.
func (n *Node) patiently(e envelope.Envelope, send func() error) {
	const least, most = time.Millisecond, 20 * time.Millisecond
	until := time.Now().Add(n.cfg.Patience)
	for wait := least; ; wait = min(2*wait, most) {
		err := send()
		if !errors.Is(err, engine.ErrOutboxFull) && !errors.Is(err, engine.ErrMemory) {
			n.unfit(e, err)
			return // otherwise it is sent, or its receiver has closed or does not read
		}
		if time.Now().After(until) || !sleep(n.run, wait) {
			n.counts.shed.Add(1)
			if held, ok := n.shedLine.Due(); ok {
				n.cfg.Logger.Warn("nodes: message from another node dropped: the outboxes are full", "err", err, "omitted", held)
			}
			return
		}
	}
}

// unfit reports whether the engine has refused a frame of another node because no frame of this one
// holds it. That is counted and logged, as neither the sender nor the receivers notice.
func (n *Node) unfit(e envelope.Envelope, err error) bool {
	if err == nil || errors.Is(err, engine.ErrClosed) || errors.Is(err, engine.ErrBusy) {
		return false
	}
	n.counts.unfit.Add(1)
	if held, ok := n.unfitLine.Due(); ok {
		main, sub := split(e.Handle)
		n.cfg.Logger.Warn("nodes: frame from another node dropped: it does not fit into the frames of this node, which have to be as on all others",
			"from", n.known(e.Source), "handle", fmt.Sprintf("%d/%d", main, sub), "bytes", len(e.Body), "err", err, "omitted", held)
	}
	return true
}

// answer sends the answer of a request with to.
func (n *Node) answer(to func([]byte) error, e envelope.Envelope) {
	b, err := n.seal(e)
	if err == nil {
		err = to(b)
	}
	n.lose(err)
}

// serve processes requests: calls and messages to rooms. It is the function of the second inbox.
func (n *Node) serve(m cluster.Message) {
	e, err := envelope.Parse(m.Data)
	switch {
	case err != nil || e.Source == n.process:
		n.counts.bad.Add(1)
	case e.Kind == envelope.Takeover:
		n.moves.serve(m, e)
	case e.Kind != envelope.Call && e.Kind != envelope.Room && e.Kind != envelope.Who:
		n.counts.bad.Add(1)
	case n.expired(e.Expires):
		// The deadline has passed: the caller has already got an error that says that it may have
		// run.
	default:
		switch n.calls.admit() {
		case tooMany:
			n.answer(m.AnswerLater, refusal(engine.CodeOverloaded, "the node runs as many calls as it may"))
		case leaving:
			n.answer(m.AnswerLater, refusal(engine.CodeUnavailable, "the node stops"))
		default:
			n.calls.hand(job{m, e})
		}
	}
}

// work runs a request of another node, and answers it.
func (n *Node) work(j job) {
	defer n.calls.done()
	left := time.Duration(j.e.Left) * time.Millisecond
	a := envelope.Envelope{}
	switch j.e.Kind {
	case envelope.Call:
		a = n.calls.run(j.e, left)
	case envelope.Room:
		a = n.homes.serve(j.e, left)
	case envelope.Who:
		a = n.who(j.e.Key, maxPresence)
	}
	err := n.reply(j.m, a)
	if errors.Is(err, cluster.ErrTooLarge) { // otherwise the requester would wait for an answer that can't be sent
		err = n.reply(j.m, n.smaller(j.e))
	}
	n.lose(err)
}

// reply answers a request.
func (n *Node) reply(m cluster.Message, a envelope.Envelope) error {
	buf := buffers.Get().(*[]byte)
	defer keep(buf)
	a.Source = n.process
	b, err := a.Append((*buf)[:0])
	if err != nil {
		return err
	}
	*buf = b
	return m.AnswerAmong(b, int(n.calls.running.Load()))
}

// smaller returns the answer that replaces one that is too large for the servers.
func (n *Node) smaller(e envelope.Envelope) envelope.Envelope {
	if e.Kind == envelope.Who {
		return n.who(e.Key, 0)
	}
	return failure(services.Errorf(engine.CodeLimit, "the answer is larger than the servers' max_payload"))
}

// expired reports whether a time of the servers' clock has passed, as far as known.
func (n *Node) expired(at uint64) bool {
	if at == 0 {
		return false
	}
	now := n.cache.ServerTime()
	return !now.IsZero() && now.UnixMicro() > int64(at)
}

// refusal is the answer to a request that has not run and will not.
func refusal(code engine.ErrorCode, text string) envelope.Envelope {
	return envelope.Envelope{Kind: envelope.Answer, Flags: envelope.Refused, Handle: uint32(code), Body: []byte(text)}
}

// calleeError converts the error of a function that has run to the error its caller gets, also on
// the same node. Wrapped errors are reduced to text, because they may say of another message that
// it was not executed. Nil stays nil.
func calleeError(err error) error {
	if err == nil {
		return nil
	}
	e := services.ErrorOf(err)
	told := &services.Error{Code: e.Code, Text: e.Text}
	if e.Err != nil {
		told.Err = errors.New(e.Err.Error())
	}
	return told
}

// refused converts a refusal of another node to an error.
func refused(code engine.ErrorCode, text string) error {
	switch code {
	case engine.CodeOverloaded:
		return fmt.Errorf("%w: %s", cluster.ErrOverloaded, text)
	case engine.CodeLimit:
		return fmt.Errorf("%w: %w", cluster.ErrOverloaded, services.ErrTooManyRooms)
	}
	return fmt.Errorf("%w: %s", cluster.ErrUnavailable, text)
}

// failure is the answer to a request that has run and failed.
func failure(err error) envelope.Envelope {
	e := services.ErrorOf(err)
	return envelope.Envelope{Kind: envelope.Answer, Flags: envelope.Failed, Handle: uint32(e.Code), Body: []byte(e.Text)}
}

// errElsewhere: the object of a request is not on this node.
var errElsewhere = errors.New("nodes: not here")

// parseAnswer parses an answer. A *services.Error is the other node's.
func parseAnswer(b []byte) (body []byte, err error) {
	e, err := envelope.Parse(b)
	if err != nil || e.Kind != envelope.Answer {
		return nil, cluster.ErrLost
	}
	switch e.Flags {
	case envelope.OK:
		return e.Body, nil
	case envelope.Elsewhere:
		return nil, errElsewhere
	case envelope.Refused:
		return nil, refused(engine.ErrorCode(e.Handle), string(e.Body))
	case envelope.Failed:
		return nil, &services.Error{Code: engine.ErrorCode(e.Handle), Text: string(e.Body)}
	}
	return nil, cluster.ErrLost
}
