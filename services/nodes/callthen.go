package nodes

import (
	"context"
	"errors"
	"runtime/debug"
	"time"

	"millrace/services/cluster"
	"millrace/services/nodes/internal/envelope"
)

// CallThen is Call without waiting: it never blocks, so it may be called on a loop, and it needs no
// goroutine. then is called once, with the outcome that Call would have returned: on the calling
// goroutine if that is known at once, otherwise on one of the node's. It must not block, because
// the answers of other calls wait for it; it may call services.Reply.Done.
//
// ctx gives the caller, as in Call, and the deadline; cancelling it does not end the call. A service
// of this node runs on a goroutine of its own, which counts towards Config.MaxCalls.
func CallThen[Req, Res any](ctx context.Context, n *Node, handle uint32, req Req, o CallOptions, then func(Res, error)) {
	var none Res
	until := n.until(ctx, o)
	to, here, err := n.callee(handle, o)
	if err != nil {
		then(none, err)
		return
	}
	e := envelope.Envelope{Kind: envelope.Call, Handle: handle}
	from, err := n.caller(ctx, o, &e)
	if err != nil {
		then(none, err)
		return
	}
	if here {
		switch n.calls.admit() {
		case tooMany:
			then(none, cluster.ErrOverloaded)
			return
		case leaving:
			then(none, cluster.ErrUnavailable)
			return
		}
		go func() {
			defer n.calls.done()
			res, err := callHere[Req, Res](ctx, n, handle, &req, until, from)
			n.guard(func() { then(res, err) })
		}()
		return
	}
	if e.Body, err = n.cfg.Serializer.Append(nil, &req); err != nil {
		then(none, err)
		return
	}
	n.callAtThen(until, to, o, e, func(body []byte, err error) {
		var res Res
		if err = answerOf(err, handle); err == nil {
			err = decodeAnswer(n, handle, body, &res)
		}
		then(res, err)
	})
}

// callAtThen is callAt for who does not wait.
func (n *Node) callAtThen(until time.Time, to string, o CallOptions, e envelope.Envelope, then func([]byte, error)) {
	if to == "" {
		n.questionThen(until, anySubject(e.Handle), e, then)
		return
	}
	n.questionThen(until, to, e, func(body []byte, err error) {
		if elsewhere(o, err) {
			n.questionThen(until, anySubject(e.Handle), e, then)
			return
		}
		then(body, err)
	})
}

// questionThen is questionUntil for who does not wait: then is called once.
func (n *Node) questionThen(until time.Time, subject string, e envelope.Envelope, then func([]byte, error)) {
	err := n.stamp(&e, until)
	var b []byte
	if err == nil {
		b, err = n.seal(e)
	}
	if err == nil {
		err = n.bus.AskThen(until, subject, b, func(answer []byte, err error) {
			n.guard(func() {
				if err == nil {
					answer, err = parseAnswer(answer)
				}
				then(answer, err)
			})
		})
	}
	if err != nil {
		then(nil, err)
	}
}

// guard keeps a panic of a function that was given to CallThen from what called it.
func (n *Node) guard(fn func()) {
	defer func() {
		if v := recover(); v != nil {
			if held, ok := n.panicLine.Due(); ok {
				n.cfg.Logger.Error("nodes: what follows a call panicked", "panic", v, "stack", string(debug.Stack()), "omitted", held)
			}
		}
	}()
	fn()
}

// until is when a call ends.
func (n *Node) until(ctx context.Context, o CallOptions) time.Time {
	until, bounded := ctx.Deadline()
	most := o.Timeout
	switch {
	case most == 0 && bounded:
		return until
	case most == 0:
		most = n.cfg.Timeout
	}
	if at := time.Now().Add(most); !bounded || at.Before(until) {
		return at
	}
	return until
}

// elsewhere tells whether a call that was answered by an error has surely not run on the node
// that was chosen, and may be tried on another.
func elsewhere(o CallOptions, err error) bool {
	return o.Node == "" && o.Key == "" && (errors.Is(err, cluster.ErrUnavailable) || errors.Is(err, errElsewhere))
}

// callHere calls a service of this node on this goroutine.
func callHere[Req, Res any](ctx context.Context, n *Node, handle uint32, req *Req, until time.Time, from Caller) (res Res, err error) {
	to, _ := n.calls.find(handle)
	fn, ok := to.typed.(func(context.Context, *Req) (Res, error))
	if !ok {
		return res, typesError(handle)
	}
	within := newCallContext(ctx, until, from)
	defer within.end()
	_, err = n.calls.safely(func() (_ []byte, err error) {
		res, err = fn(within, req)
		return nil, err
	})
	return res, calleeError(err)
}
