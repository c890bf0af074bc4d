package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"millrace/engine"
	"millrace/services"
	"millrace/timerwheel"
)

// The handles, all of Main 1.
const (
	subSubscribe   = 1
	subUnsubscribe = 2
	subQuote       = 3 // from the server: only the newest of a symbol is of use
)

// flushEvery is how long a change may wait for others of its symbol.
const flushEvery = 5 * time.Millisecond

// quote is the price of a symbol.
type quote struct {
	Symbol string `json:"symbol"`
	Seq    uint64 `json:"seq"` // grows with each change
	Bid    int64  `json:"bid"`
	Ask    int64  `json:"ask"`
}

// feed keeps the newest quote of each symbol and sends changes to subscribers. The source never waits:
// a symbol that changes faster than it can be sent is sent less often.
type feed struct {
	server func() *engine.Server
	pool   func() *engine.Pool
	timers func() *timerwheel.Service

	mu     sync.Mutex
	latest map[string]*quote // guarded by mu
	dirty  []string          // guarded by mu: symbols that have changed since the last flush

	order   *engine.Strand // flush and subscribe run in it
	timer   *timerwheel.Set
	running atomic.Bool
}

// publish stores a change. It may be called from any goroutine and never blocks.
func (f *feed) publish(symbol string, bid, ask int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	q := f.latest[symbol]
	if q == nil {
		q = &quote{Symbol: symbol}
		f.latest[symbol] = q
	}
	q.Seq++
	q.Bid, q.Ask = bid, ask
	if !slices.Contains(f.dirty, symbol) {
		f.dirty = append(f.dirty, symbol)
	}
}

// newest returns the current quote of a symbol.
func (f *feed) newest(symbol string) (q quote, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if p := f.latest[symbol]; p != nil {
		return *p, true
	}
	return q, false
}

func (q quote) body() []byte {
	b, err := json.Marshal(q)
	if err != nil {
		panic("feed: " + err.Error()) // there is nothing in it that JSON can't say
	}
	return b
}

// changes returns the symbols that have changed since its last call.
func (f *feed) changes() (all []quote) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, symbol := range f.dirty {
		all = append(all, *f.latest[symbol])
	}
	f.dirty = nil
	return all
}

// flush sends the changes. Those that are refused because an outbox is full are sent by a later flush.
func (f *feed) flush(timerwheel.Firing) {
	changed := f.changes()
	for i, q := range changed {
		// A subscriber who reads slowly has one frame of each symbol waiting: the newest.
		_, err := f.server().Group(q.Symbol).SendKeyed(0, 1, subQuote, q.body())
		switch {
		case err == nil:
		case errors.Is(err, engine.ErrBusy), errors.Is(err, engine.ErrMemory):
			f.again(changed[i:])
			return
		default:
			slog.Warn("feed: a quote is not sent", "symbol", q.Symbol, "err", err)
		}
	}
}

func (f *feed) again(unsent []quote) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, q := range unsent {
		if !slices.Contains(f.dirty, q.Symbol) {
			f.dirty = append(f.dirty, q.Symbol)
		}
	}
}

// Start begins to send changes, one flush at a time. It makes the feed a services.Service.
func (f *feed) Start(context.Context) error {
	f.order = f.pool().Strand()
	f.timer = f.timers().For(f.order)
	_, err := f.timer.Every(flushEvery, f.flush)
	f.running.Store(err == nil)
	return err
}

func (f *feed) Stop(context.Context) error {
	f.timer.Close()
	f.running.Store(false)
	return nil
}

func (f *feed) Running() bool { return f.running.Load() }

func (f *feed) register(to *services.Controller) error {
	return errors.Join(
		services.Register(to, services.Handle(1, subSubscribe), services.Stages[symbols, subscribed]{Handle: f.subscribe}, services.Name("subscribe")),
		services.Register(to, services.Handle(1, subUnsubscribe), services.Stages[symbols, subscribed]{Handle: f.unsubscribe}, services.Name("unsubscribe")))
}

type symbols struct {
	Symbols []string `json:"symbols"`
}

const maxSymbols = 500 // of a session: its groups

// Validate is called before the handler.
func (r *symbols) Validate() error {
	if len(r.Symbols) < 1 || len(r.Symbols) > maxSymbols {
		return errors.New("symbols are 1 to 500")
	}
	for _, s := range r.Symbols {
		if len(s) < 1 || len(s) > 16 {
			return errors.New("a symbol has 1 to 16 bytes")
		}
	}
	return nil
}

type subscribed struct {
	Symbols int `json:"symbols"` // that the session has now
}

// subscribe sends the current quote, and from then on each change. It runs on the feed's strand, as
// flush does, so an old quote is never sent after a newer one; a quote may be sent twice.
func (f *feed) subscribe(ctx *services.Context, req *symbols, res *subscribed) error {
	s, reply := ctx.Session(), ctx.Defer()
	return f.order.Submit(func() {
		for _, symbol := range req.Symbols {
			if _, err := f.server().Group(symbol).Join(s); err != nil {
				reply.Done(nil, err)
				return
			}
			if q, ok := f.newest(symbol); ok {
				_ = s.Push(1, subQuote, q.body()) // it has gone, or is about to be closed for what it does not read
			}
		}
		res.Symbols = len(s.Groups())
		reply.Done(nil, nil)
	})
}

func (f *feed) unsubscribe(ctx *services.Context, req *symbols, res *subscribed) error {
	s := ctx.Session()
	for _, symbol := range req.Symbols {
		if _, err := f.server().Group(symbol).Leave(s); err != nil {
			return err
		}
	}
	res.Symbols = len(s.Groups())
	return nil
}
