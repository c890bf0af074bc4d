package nodes

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"millrace/engine"
	"millrace/services"
	"millrace/services/cluster"
	"millrace/services/nodes/internal/envelope"
)

// calls are the services of this node that other nodes may call, and the calls of other nodes in
// progress.
type calls struct {
	n *Node

	mu     sync.Mutex
	served map[uint32]callee        // guarded by mu
	sorted atomic.Pointer[[]uint32] // their handles; never changed in place

	// subscribing is held while the servers are told, which may take Config.Timeout of the
	// cache where they take nothing; no call waits for it. It comes before mu.
	subscribing sync.Mutex
	subs        map[uint32]*cluster.Subscription // guarded by subscribing; to calls of any node
	started     bool                             // guarded by subscribing

	jobs    chan job // for idle goroutines
	spare   atomic.Int64
	running atomic.Int64
	refused atomic.Uint64

	work     context.Context // context of other nodes' calls; made by Start
	giveUp   context.CancelFunc
	stopping atomic.Bool
	idle     chan struct{} // signalled when, while stopping, no call runs any more
}

// callee is a service of this node.
type callee struct {
	typed any // func(context.Context, *Req) (Res, error), for callers on this node
	bytes func(ctx context.Context, body []byte) ([]byte, error)
}

// Caller is the caller of a service, stored in the service's context.
type Caller struct {
	Node    string    // "" if it is not known any more
	Session SessionID // zero: none
	User    string
	Trace   [16]byte

	hops uint8 // remaining
}

type callerKey struct{}

// CallerOf returns the caller of the service to which ctx was given; false if ctx belongs to no
// call.
func CallerOf(ctx context.Context) (Caller, bool) {
	c, ok := ctx.Value(callerKey{}).(*Caller)
	if !ok {
		return Caller{}, false
	}
	return *c, true
}

// CallOptions select the node that is called, and describe the caller. The zero value: this node if
// it serves the handle, otherwise any node that does.
type CallOptions struct {
	// Node is the name of the node to call.
	Node string
	// Key chooses one of the nodes that serve the handle and don't drain, always the same one as
	// long as these are the same.
	Key string
	// Session and User are sent with the call, for CallerOf. In a service that was called, they
	// default to those of its caller.
	Session *engine.Session
	User    string
	// Trace is sent with the call too.
	Trace [16]byte
	// Timeout is how long the call may take at most, whatever the deadline of its context;
	// default Config.Timeout, if that has none. It costs less than a context made for it.
	Timeout time.Duration
}

// ErrHops: a chain of calls is longer than Config.MaxHops, for example because they form a cycle.
var ErrHops = &services.Error{Code: engine.CodeInternal, Text: "nodes: too many nested calls between services"}

func (c *calls) init(n *Node) {
	c.n, c.served, c.subs = n, map[uint32]callee{}, map[uint32]*cluster.Subscription{}
	c.idle, c.jobs = make(chan struct{}, 1), make(chan job)
	c.sorted.Store(&[]uint32{})
}

// handles returns the served handles, ascending.
func (c *calls) handles() []uint32 { return *c.sorted.Load() }

// Serve makes fn answer calls of the handle. fn runs on a goroutine of its own, or on that of a
// caller on this node; ctx ends at the deadline. An error is sent to the caller as services.ErrorOf
// converts it; a panic becomes an internal error. Serving a handle twice is an error.
func Serve[Req, Res any](n *Node, handle uint32, fn func(ctx context.Context, req *Req) (Res, error)) error {
	return n.calls.serve(handle, callee{typed: fn, bytes: func(ctx context.Context, body []byte) ([]byte, error) {
		var req Req
		if err := n.cfg.Serializer.Decode(body, &req); err != nil {
			return nil, err
		}
		res, err := fn(ctx, &req)
		if err != nil {
			return nil, err
		}
		return n.cfg.Serializer.Append(nil, &res)
	}})
}

func (c *calls) serve(handle uint32, to callee) error {
	if err := c.add(handle, to); err != nil {
		return err
	}
	c.subscribing.Lock()
	defer c.subscribing.Unlock()
	if !c.started || c.subs[handle] != nil {
		return nil
	}
	return c.subscribe(handle)
}

func (c *calls) add(handle uint32, to callee) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, taken := c.served[handle]; taken {
		return fmt.Errorf("nodes: calls of %d/%d are already served", handle>>16, handle&0xffff)
	}
	if len(c.served) >= maxHandles {
		return fmt.Errorf("nodes: %d handles are served, which is the limit", len(c.served))
	}
	c.served[handle] = to
	all := append(slices.Clone(c.handles()), handle)
	slices.Sort(all)
	c.sorted.Store(&all)
	return nil
}

func anySubject(handle uint32) string { return "c." + strconv.FormatUint(uint64(handle), 16) }

// subscribe subscribes to calls to any node. Caller holds subscribing.
func (c *calls) subscribe(handle uint32) error {
	sub, err := c.n.asked.Load().Subscribe(anySubject(handle), "any")
	if err == nil {
		c.subs[handle] = sub
	}
	return err
}

func (c *calls) find(handle uint32) (callee, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	to, ok := c.served[handle]
	return to, ok
}

// run runs a call of another node, and returns the answer.
func (c *calls) run(e envelope.Envelope, left time.Duration) envelope.Envelope {
	to, ok := c.find(e.Handle)
	if !ok {
		return envelope.Envelope{Kind: envelope.Answer, Flags: envelope.Elsewhere}
	}
	ctx := newCallContext(c.work, time.Now().Add(min(left, time.Hour)), Caller{
		Node: c.n.known(e.Source), Session: SessionID{e.Source, engine.ID(e.Session)}, User: e.Key, Trace: e.Trace, hops: e.Hops,
	})
	defer ctx.end()
	body, err := c.safely(func() ([]byte, error) { return to.bytes(ctx, e.Body) })
	if err != nil {
		return failure(err)
	}
	return envelope.Envelope{Kind: envelope.Answer, Body: body}
}

// safely converts a panic of fn to an error.
func (c *calls) safely(fn func() ([]byte, error)) (body []byte, err error) {
	defer func() {
		if v := recover(); v != nil {
			if held, ok := c.n.panicLine.Due(); ok {
				c.n.cfg.Logger.Error("nodes: a call panicked", "panic", v, "stack", string(debug.Stack()), "omitted", held)
			}
			err = &services.Error{Code: engine.CodeInternal, Text: "internal error"}
		}
	}()
	return fn()
}

// Call calls the service at handle, without serialization if this node serves it and is the one to
// call. It has one outcome: the answer; the callee's error, a *services.Error; or
// cluster.ErrUnavailable (at once, if no node serves it), ErrOverloaded, ErrLost or ErrNoAnswer,
// which say whether it may have run. If ctx has no deadline, Config.Timeout limits it.
func Call[Req, Res any](ctx context.Context, n *Node, handle uint32, req Req, o CallOptions) (res Res, err error) {
	until := n.until(ctx, o)
	to, here, err := n.callee(handle, o)
	if err != nil {
		return res, err
	}
	e := envelope.Envelope{Kind: envelope.Call, Handle: handle}
	from, err := n.caller(ctx, o, &e)
	if err != nil {
		return res, err
	}
	if here {
		return callHere[Req, Res](ctx, n, handle, &req, until, from)
	}
	buf := buffers.Get().(*[]byte)
	defer keep(buf)
	if e.Body, err = n.cfg.Serializer.Append((*buf)[:0], &req); err != nil {
		return res, err
	}
	*buf = e.Body
	body, err := n.callAt(ctx, until, to, o, e)
	if err = answerOf(err, handle); err == nil {
		err = decodeAnswer(n, handle, body, &res)
	}
	return res, err
}

// answerOf is what the error of a question is for who has called.
func answerOf(err error, handle uint32) error {
	if errors.Is(err, errElsewhere) {
		return fmt.Errorf("%w: %d/%d is not served there", cluster.ErrUnavailable, handle>>16, handle&0xffff)
	}
	return err
}

func decodeAnswer[Res any](n *Node, handle uint32, body []byte, res *Res) error {
	if err := n.cfg.Serializer.Decode(body, res); err != nil {
		return fmt.Errorf("nodes: answer of %d/%d: %w", handle>>16, handle&0xffff, err)
	}
	return nil
}

func typesError(handle uint32) error {
	return fmt.Errorf("%w: %d/%d", services.ErrTypes, handle>>16, handle&0xffff)
}

// callAt sends a call to a node's subject; "" lets the servers choose a node, as they also do when
// the node chosen among several has certainly not run it.
func (n *Node) callAt(ctx context.Context, until time.Time, to string, o CallOptions, e envelope.Envelope) ([]byte, error) {
	if to != "" {
		body, err := n.questionUntil(ctx, until, to, e)
		if !elsewhere(o, err) {
			return body, err
		}
	}
	return n.questionUntil(ctx, until, anySubject(e.Handle), e)
}

// callee chooses the node to call: this one, or a subject, "" for any.
func (n *Node) callee(handle uint32, o CallOptions) (to string, here bool, err error) {
	_, served := n.calls.find(handle)
	switch {
	case o.Node != "":
		m, ok := n.byName(o.Node)
		if !ok || m.Self && !served {
			return "", false, cluster.ErrUnavailable
		}
		return m.asks, m.Self, nil
	case o.Key != "":
		m, ok := place(o.Key, n.serving(handle))
		if !ok {
			return "", false, cluster.ErrUnavailable
		}
		return m.asks, m.Self, nil
	case served:
		return "", true, nil
	case n.bus == nil:
		return "", false, cluster.ErrUnavailable
	}
	// Prefer a known node, so that the call ends when it dies; otherwise the servers choose.
	seen := 0
	for _, m := range n.ups() {
		if m.serves(handle) {
			if seen++; rand.IntN(seen) == 0 {
				to = m.asks
			}
		}
	}
	return to, false, nil
}

// serving returns the nodes that serve a handle and don't drain, as far as known.
func (n *Node) serving(handle uint32) (all []Member) {
	for _, m := range n.ups() {
		if m.serves(handle) {
			all = append(all, m)
		}
	}
	if self := n.self(); self.State == Up && self.serves(handle) {
		all = append(all, self)
	}
	return all
}

// caller sets the caller in e, and returns it for a service of this node.
func (n *Node) caller(ctx context.Context, o CallOptions, e *envelope.Envelope) (Caller, error) {
	from := Caller{User: o.User, Trace: o.Trace, hops: uint8(n.cfg.MaxHops)}
	if before, ok := CallerOf(ctx); ok {
		if before.hops == 0 {
			return from, ErrHops
		}
		from.hops, from.Session = before.hops-1, before.Session
		if from.User == "" {
			from.User = before.User
		}
		if from.Trace == ([16]byte{}) {
			from.Trace = before.Trace
		}
	}
	from.Node = n.cfg.Name
	if o.Session != nil {
		from.Session = n.ID(o.Session)
	}
	e.Hops, e.Trace, e.Key, e.Session = from.hops, from.Trace, from.User, uint64(from.Session.Session)
	return from, nil
}

// question sends a request and reads the answer. ctx's deadline is sent with it.
func (n *Node) question(ctx context.Context, subject string, e envelope.Envelope) ([]byte, error) {
	until, _ := ctx.Deadline()
	return n.questionUntil(ctx, until, subject, e)
}

// questionUntil is question with a deadline that is sent with it; zero: none.
func (n *Node) questionUntil(ctx context.Context, until time.Time, subject string, e envelope.Envelope) ([]byte, error) {
	if err := n.stamp(&e, until); err != nil {
		return nil, err
	}
	buf := buffers.Get().(*[]byte)
	defer keep(buf)
	e.Source = n.process
	b, err := e.Append((*buf)[:0])
	if err != nil {
		return nil, err
	}
	*buf = b
	got, err := n.bus.AskUntil(ctx, until, subject, b)
	if err != nil {
		return nil, err
	}
	return parseAnswer(got)
}

// stamp puts the deadline of a request into its envelope; zero: none. It returns ErrUnavailable if
// no time is left, or the node has no bus.
func (n *Node) stamp(e *envelope.Envelope, until time.Time) error {
	if n.bus == nil {
		return cluster.ErrUnavailable
	}
	if until.IsZero() {
		return nil
	}
	left := time.Until(until)
	if left < time.Millisecond {
		return fmt.Errorf("%w: no time was left", cluster.ErrUnavailable)
	}
	e.Left = uint32(min(left.Milliseconds(), 1<<32-1))
	if now := n.cache.ServerTime(); !now.IsZero() {
		e.Expires = uint64(now.Add(left).UnixMicro())
	}
	return nil
}
