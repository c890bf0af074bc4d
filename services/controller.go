package services

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"millrace/codec"
	"millrace/engine"
	"millrace/internal/seldom"
	"millrace/services/serial"
	"millrace/timerwheel"
)

// ControllerConfig configures a controller and its services. Zero fields mean the defaults.
type ControllerConfig struct {
	// Timers run delay events and Context.Timers; if nil, both are unavailable.
	Timers *timerwheel.Service
	// DB is Context.DB; nil for none.
	DB Database
	// Cache is Context.Cache; nil for none.
	Cache Cache
	// Durable stores durable delay events; if nil, they are unavailable.
	Durable DurableEvents
	// Pool runs functions that belong to no session.
	Pool Submitter

	// Layout is the server's: a service for a handle that does not fit it is refused when it is
	// registered. Zero means the default frame, which all handles fit.
	Layout codec.Layout

	// SerializerFor chooses the serializer of a request. If it is nil or returns nil, the service's
	// is used, else the session's (SetSerializer), else JSON.
	SerializerFor func(s *engine.Session, p codec.Packet) serial.Serializer

	// Timeout limits deferred answers (Context.Defer) of services without a timeout of their own;
	// default 60 s.
	Timeout time.Duration
	// MaxDeferred limits the pending answers of one session; default 4,096. A further request gets
	// ERROR limit, after the pending answers on its handle; one with a sequence number
	// (codec.Layout.Seq) at once.
	MaxDeferred int
	// MaxDelayed limits a session's pending delay events and timers of Context.Timers; default
	// 1,024.
	MaxDelayed int
	// MaxDepth limits the nesting of inline calls; default 16.
	MaxDepth int

	// Measure counts the requests of each handle, and measures the time of a sample of them: see
	// HandleStats. It costs a few nanoseconds a request and 2.5 KiB a handle.
	Measure bool

	// Tracer is notified of requests, inline calls and delay events; nil for none.
	Tracer Tracer

	// Logger; default slog.Default().
	Logger *slog.Logger
}

func (c ControllerConfig) withDefaults() ControllerConfig {
	if c.Timeout == 0 {
		c.Timeout = time.Minute
	}
	if c.MaxDeferred == 0 {
		c.MaxDeferred = 4096
	}
	if c.MaxDelayed == 0 {
		c.MaxDelayed = 1024
	}
	if c.MaxDepth == 0 {
		c.MaxDepth = 16
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

// ControllerStats counts exceptional outcomes of requests.
type ControllerStats struct {
	Unknown  uint64 // requests to handles without a service
	Failed   uint64 // requests answered with an ERROR
	Internal uint64 // of those, with code internal
	Deferred int64  // answers pending at present
	Stale    uint64 // answers whose session had closed
	Delayed  uint64 // delay events that ran
	Dropped  uint64 // results of delay events that could not be sent
}

// Controller is an engine.Handler that passes each packet to the service registered for its handle.
// Register and Raw may be called at any time from any goroutine.
type Controller struct {
	cfg    ControllerConfig
	frames *codec.Codec // of cfg.Layout
	json   serial.Serializer

	services atomic.Pointer[registry] // copied on write
	mu       sync.Mutex               // serializes Register, Raw, Use and the hooks
	uses     []use                    // guarded by mu
	accepts  atomic.Pointer[[]func(*engine.Session)]
	closes   atomic.Pointer[[]func(*engine.Session, engine.Reason)]
	detaches atomic.Pointer[[]func(*engine.Session)]
	resumes  atomic.Pointer[[]func(*engine.Session)]
	handoff  atomic.Pointer[handoff] // nil: sessions stay here

	sessions  sync.Map     // *engine.Session to *sessionState
	nSessions atomic.Int64 // number of sessions; 0 saves the lookup

	unknown, failed, internal, stale, delayed, dropped atomic.Uint64
	deferred                                           atomic.Int64
}

var (
	_ engine.Handler    = (*Controller)(nil)
	_ engine.FinHandler = (*Controller)(nil)

	_ engine.ResumeHandler = (*Controller)(nil)
)

// service is a registered service of any types.
type service interface {
	meta() *info
	serve(s *engine.Session, p codec.Packet)
	setMiddleware(uses []use)
	fireBytes(f fireContext, body []byte)
}

// info is the description of a service.
type info struct {
	handle   uint32
	name     string
	ser      serial.Serializer // nil: the session's
	timeout  time.Duration     // 0: the controller's, for deferred answers only
	blocking bool
	internal bool
	oneWay   bool
	meter    *meter // nil if not measured

	failures seldom.Line // limits log lines
}

// NewController returns a controller without services.
func NewController(cfg ControllerConfig) (*Controller, error) {
	if cfg.Timeout < 0 || cfg.MaxDeferred < 0 || cfg.MaxDelayed < 0 || cfg.MaxDepth < 0 {
		return nil, errors.New("services: a limit of the controller is negative")
	}
	frames, err := codec.New(cfg.Layout, 0)
	if err != nil {
		return nil, fmt.Errorf("services: %w", err)
	}
	c := &Controller{cfg: cfg.withDefaults(), frames: frames, json: serial.JSON(serial.Limits{})}
	c.services.Store(&registry{})
	if cfg.Durable != nil {
		cfg.Durable.Bind(c.fireDurable)
	}
	return c, nil
}

// Handle returns the handle of main and sub.
func Handle(main, sub uint16) uint32 { return uint32(main)<<16 | uint32(sub) }

// Handles returns the handles that peers can use, ascending.
func (c *Controller) Handles() []uint32 {
	var all []uint32
	for h, sv := range c.services.Load().all {
		if !sv.meta().internal {
			all = append(all, h)
		}
	}
	slices.Sort(all)
	return all
}

// Knows implements engine.HandleKnower: it reports whether peers can use the handle.
func (c *Controller) Knows(handle uint32) bool {
	sv := c.lookup(handle)
	return sv != nil && !sv.meta().internal
}

// Dispatch returns the handles whose services block (see Blocking) and so must run on workers, for
// engine.Config.Handles.
func (c *Controller) Dispatch() map[uint32]engine.Dispatch {
	all := map[uint32]engine.Dispatch{}
	for h, sv := range c.services.Load().all {
		if sv.meta().blocking {
			all[h] = engine.Ordered
		}
	}
	return all
}

// Stats returns the counters.
func (c *Controller) Stats() ControllerStats {
	return ControllerStats{
		Unknown: c.unknown.Load(), Failed: c.failed.Load(), Internal: c.internal.Load(),
		Deferred: c.deferred.Load(), Stale: c.stale.Load(), Delayed: c.delayed.Load(), Dropped: c.dropped.Load(),
	}
}

func (c *Controller) lookup(handle uint32) service { return c.services.Load().all[handle] }

// add registers a service. It is an error if the handle has one, or if peers can't use the handle
// because of the layout.
func (c *Controller) add(sv service) error {
	if i := sv.meta(); !i.internal {
		main, sub := codec.Split(i.handle)
		if err := c.frames.Check(codec.Packet{Main: main, Sub: sub}); err != nil {
			return fmt.Errorf("services: %s: %w", i.name, err)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	h := sv.meta().handle
	if other := c.lookup(h); other != nil {
		return fmt.Errorf("services: handle %s is taken by %q, so %q can't have it",
			handleText(h), other.meta().name, sv.meta().name)
	}
	sv.setMiddleware(c.uses)
	if c.cfg.Measure && !sv.meta().internal {
		sv.meta().meter = &meter{}
	}
	c.services.Store(c.services.Load().with(sv))
	return nil
}

func handleText(h uint32) string { return fmt.Sprintf("%d/%d", h>>16, h&0xffff) }

// OnSocketRead implements engine.Handler.
func (c *Controller) OnSocketRead(s *engine.Session, p codec.Packet) {
	sv := c.services.Load().find(p.Main, p.Sub)
	if r, ok := sv.(*raw); ok {
		if m := r.info.meter; m != nil {
			t := m.count(s)
			r.serve(s, p)
			t.end()
			return
		}
		r.serve(s, p)
		return
	}
	if sv == nil || sv.meta().internal {
		c.unknown.Add(1)
		_ = s.ReplyError(p, engine.CodeUnknownHandle, "unknown handle") // it fails only if the session has closed
		return
	}
	if c.nSessions.Load() > 0 {
		if st := c.state(s, false); st != nil && st.busy(p) {
			st.refuse(p, engine.CodeLimit, tooManyOwed)
			return
		}
	}
	if m := sv.meta().meter; m != nil {
		t := m.count(s)
		sv.serve(s, p)
		t.end()
		return
	}
	sv.serve(s, p)
}

// OnSocketFin implements engine.FinHandler: the session's locks and delay events end, and deferred
// answers are notified (Reply.OnEnd).
func (c *Controller) OnSocketFin(s *engine.Session) {
	if st := c.state(s, false); st != nil {
		st.end()
	}
	if c.cfg.Cache != nil {
		c.cfg.Cache.Release(s)
	}
}

// OnSocketClose implements engine.Handler: the session's locks, delay events
// and deferred answers end.
func (c *Controller) OnSocketClose(s *engine.Session, why engine.Reason) {
	if fns := c.closes.Load(); fns != nil {
		defer func() {
			for _, fn := range *fns {
				fn(s, why)
			}
		}()
	}
	if st, ok := c.sessions.LoadAndDelete(s); ok {
		c.nSessions.Add(-1)
		st.(*sessionState).close()
	}
	if c.cfg.Cache != nil {
		c.cfg.Cache.Release(s)
	}
}

// SetSerializer sets the session's serializer, for services without one of their own. Call it from
// the session's callbacks.
func (c *Controller) SetSerializer(s *engine.Session, ser serial.Serializer) {
	c.state(s, true).ser = ser
}

// serializer returns the serializer of a request.
func (c *Controller) serializer(i *info, s *engine.Session, p codec.Packet) serial.Serializer {
	if c.cfg.SerializerFor != nil && s != nil {
		if ser := c.cfg.SerializerFor(s, p); ser != nil {
			return ser
		}
	}
	if i.ser != nil {
		return i.ser
	}
	if s != nil && c.nSessions.Load() > 0 {
		if st := c.state(s, false); st != nil && st.ser != nil {
			return st.ser
		}
	}
	return c.json
}

// fail sends the peer an ERROR, in order.
func (c *Controller) fail(ctx *Context, err error) {
	e := ErrorOf(err)
	c.failed.Add(1)
	ctx.info.meter.failed(e.Code)
	if e.Code == engine.CodeInternal {
		c.internal.Add(1)
		if held, ok := ctx.info.failures.Due(); ok {
			ctx.Logger().Error("services: request failed", "err", err, "omitted", held)
		}
	}
	ctx.send(answer{packet: ctx.packet, code: e.Code, text: e.Text})
}
