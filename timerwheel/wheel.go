package timerwheel

import (
	"log/slog"
	"sync"
	"time"

	"github.com/RussellLuo/timingwheel"
)

// A wheel calls functions after a time: the library's, or a test's.
type wheel interface {
	// after runs f on a goroutine of its own. It may block for ever.
	after(d time.Duration, f func())
	start()
	stop() // may block for ever
}

// library is the module's latest revision. It holds a bucket's lock while it
// moves the bucket's timers (its issue 53); the one before does not, but a Stop
// may then miss. Nothing here calls a library timer's Stop, and three million on
// a wheel of 16 buckets neither hung nor got lost with either.
type library struct{ w *timingwheel.TimingWheel }

func newLibrary(tick time.Duration, size int) wheel {
	return library{timingwheel.NewTimingWheel(tick, int64(size))}
}

func (l library) after(d time.Duration, f func()) { l.w.AfterFunc(d, f) }
func (l library) start()                          { l.w.Start() }
func (l library) stop()                           { l.w.Stop() }

// wheels keeps one library wheel going, and replaces it when it is dead or its
// clock has been stepped.
type wheels struct {
	c      *common
	size   int // Config.WheelSize
	logger *slog.Logger
	make   func(tick time.Duration, size int) wheel
	expire func(level int, key int64) // called when a slot comes up
	wake   func()                     // has all done that is due

	mu      sync.Mutex
	current *wheelInstance // guarded by mu; nil while stopped
}

// A wheelInstance is one wheel and its caller, a goroutine that makes all calls
// into it: the library may block in them for ever (its issue 53), and then only
// the caller does.
type wheelInstance struct {
	wheel      wheel
	offset     int64         // wall clock minus monotonic clock when it was made
	requests   []request     // guarded by wheels.mu; at most one a slot
	pending    chan struct{} // holds one token when requests is not empty
	quit       chan struct{} // closed when the wheel is given up or stopped
	callerDone chan struct{} // closed when its caller has ended
}

// A request is for a call of expire(level, key).
type request struct {
	level int
	key   int64
}

// start makes the first wheel.
func (ws *wheels) start() { ws.renew(nil) }

// stop gives the wheel up. What it returns blocks until that has ended, or for
// ever.
func (ws *wheels) stop() (wait func()) {
	ws.mu.Lock()
	w := ws.current
	ws.current = nil
	ws.mu.Unlock()
	close(w.quit)
	return w.end
}

// end ends the wheel: not before its caller, for the library deadlocks when it
// is called while it stops (its issue 31).
func (w *wheelInstance) end() {
	<-w.callerDone
	w.wheel.stop()
}

// renew puts a new wheel in the place of old and requests all armed slots of
// it. It is false if old isn't the current one any more.
func (ws *wheels) renew(old *wheelInstance) bool {
	wall, mono := ws.c.clocks()
	w := &wheelInstance{
		wheel:      ws.make(ws.c.period(), ws.size),
		offset:     wall - mono,
		pending:    make(chan struct{}, 1),
		quit:       make(chan struct{}),
		callerDone: make(chan struct{}),
	}
	w.wheel.start()
	go ws.call(w)
	given := old
	ws.mu.Lock()
	ok := ws.current == old
	if ok {
		ws.current = w
		for slot := range uint32(levels * ringLen) {
			if key, ok := ws.c.slots.armed(slot); ok {
				w.requests = append(w.requests, request{levelOf(slot), key})
			}
		}
		w.pending <- struct{}{}
	} else {
		given = w
	}
	ws.mu.Unlock()
	if given != nil {
		close(given.quit)
		go given.end() // may block for ever, with the wheel that it is given up for
	}
	return ok
}

// request has the slot brought up. It never blocks.
func (ws *wheels) request(level int, key int64) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	w := ws.current
	if w == nil {
		return
	}
	if w.requests = append(w.requests, request{level, key}); len(w.requests) == 1 {
		select {
		case w.pending <- struct{}{}:
		default:
		}
	}
}

// call is the wheel's caller.
func (ws *wheels) call(w *wheelInstance) {
	defer close(w.callerDone)
	var todo []request
	for {
		select {
		case <-w.quit:
			return
		case <-w.pending:
		}
		ws.mu.Lock()
		todo, w.requests = w.requests, todo[:0]
		ws.mu.Unlock()
		for _, r := range todo {
			select {
			case <-w.quit:
				return
			default:
			}
			ws.callOne(w, r)
		}
	}
}

// callOne makes the call into the library, which counts wall-clock ticks and
// fires up to one early: the delay asked for is that to the first of its ticks
// that is not before the slot's.
func (ws *wheels) callOne(w *wheelInstance, r request) {
	if ws.c.stepped(w.offset) != 0 {
		ws.check() // the new wheel is asked for this slot too
		return
	}
	wall, mono := ws.c.clocks()
	tick := ws.c.tick
	at := wall + expiry(r.level, r.key)*tick - mono
	if over := at % tick; over > 0 {
		at += tick - over
	}
	w.wheel.after(time.Duration(at-wall), func() { ws.expire(r.level, r.key) })
}

// soon is how long a slot waits at most that keeps coming up early.
const soon = 100 * time.Millisecond

// early asks again for a slot that came up before its time. It does so by the
// runtime's timer, for a wheel whose clock runs ahead would bring it up at once,
// over and over.
func (ws *wheels) early(level int, key int64) {
	ws.c.count.early.Add(1)
	d := time.Duration(expiry(level, key)*ws.c.tick - ws.c.now())
	if d <= soon {
		time.AfterFunc(d, func() { ws.expire(level, key) })
		return
	}
	time.AfterFunc(soon, func() { ws.request(level, key) })
}

// check replaces the wheel if the wall clock has been stepped.
func (ws *wheels) check() {
	if w := ws.running(); w != nil {
		if step := ws.c.stepped(w.offset); step != 0 {
			ws.replace(w, "clock_step", step)
		}
	}
}

// giveUp replaces a wheel that brings slots up no more.
func (ws *wheels) giveUp() {
	if w := ws.running(); w != nil {
		ws.replace(w, "silent", true)
	}
}

// running returns the current wheel, nil while stopped.
func (ws *wheels) running() *wheelInstance {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	return ws.current
}

func (ws *wheels) replace(w *wheelInstance, why string, what any) {
	if !ws.renew(w) {
		return
	}
	ws.c.count.rebuilds.Add(1)
	ws.logger.Warn("timerwheel: new wheel", why, what)
	go ws.wake() // what is overdue need not wait for it
}
