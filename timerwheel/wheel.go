package timerwheel

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
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
// may then miss. Nothing here calls Stop, and three million timers on a wheel of
// 16 buckets neither hung nor got lost with either.
type library struct{ w *timingwheel.TimingWheel }

func newLibrary(tick time.Duration, size int) wheel {
	return library{timingwheel.NewTimingWheel(tick, int64(size))}
}

func (l library) after(d time.Duration, f func()) { l.w.AfterFunc(d, f) }
func (l library) start()                          { l.w.Start() }
func (l library) stop()                           { l.w.Stop() }

// wheels keeps one library wheel going. Each has an armer, a goroutine of its
// own that makes all calls into it: the library may block in them for ever
// (its issue 53), and then only the armer hangs. The watchdog, on the runtime's
// timer, gives a wheel up that has stopped beating, or whose clock has been
// stepped, and arms everything again on a new one.
type wheels struct {
	svc  *Service
	make func(tick time.Duration, size int) wheel

	mu  sync.Mutex
	now *axle // guarded by mu; nil while stopped

	quit  chan struct{} // ends the watchdog
	done  chan struct{} // closed when it has ended
	ended chan struct{} // closed when all that was started has ended; nil at first
}

// An axle is one wheel and what belongs to it.
type axle struct {
	wheel  wheel
	offset int64         // wall clock minus monotonic clock when it was made
	beat   atomic.Int64  // when it beat last, monotonic
	asked  []armed       // guarded by wheels.mu; to be armed. At most one a slot, and the beat
	wake   chan struct{} // holds one token when asked is not empty
	over   chan struct{} // closed when the wheel is given up or stopped
	gone   chan struct{} // closed when its armer has ended
}

// armed is a request to call up(level, key), or for beatLevel the heartbeat.
type armed struct {
	level int
	key   int64
}

const beatLevel = -1

var errStopping = errors.New("timerwheel: the wheel of before has not ended yet")

// beats is how often the wheel beats in one Config.Watchdog.
const beats = 4

func (ws *wheels) init(s *Service) {
	ws.svc = s
	ws.make = newLibrary
}

// start makes the first wheel and the watchdog.
func (ws *wheels) start() error {
	if ws.ended != nil {
		select {
		case <-ws.ended:
		default:
			return errStopping
		}
	}
	ws.mu.Lock()
	ws.renew()
	ws.mu.Unlock()
	ws.quit, ws.done = make(chan struct{}), make(chan struct{})
	go ws.watch(ws.quit, ws.done)
	return nil
}

// stop ends the watchdog, the armer, the wheel and the driver.
func (ws *wheels) stop(ctx context.Context) error {
	close(ws.quit)
	<-ws.done
	ws.mu.Lock()
	w := ws.now
	ws.now = nil
	ws.mu.Unlock()
	close(w.over)
	ended := make(chan struct{})
	ws.ended = ended
	go func() {
		<-w.gone // the library deadlocks when it is armed while it stops (its issue 31)
		w.wheel.stop()
		ws.svc.settleDown()
		close(ended)
	}()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("timerwheel: stop: %w", ctx.Err())
	}
}

// renew puts a new wheel in the place of the old and has all armed slots armed
// on it. ws.mu is held.
func (ws *wheels) renew() {
	s := ws.svc
	if w := ws.now; w != nil {
		close(w.over)
		go func() { // may hang for ever with the wheel it is given up for
			<-w.gone
			w.wheel.stop()
		}()
	}
	wall, mono := s.clocks()
	w := &axle{
		wheel:  ws.make(s.cfg.Tick, s.cfg.WheelSize),
		offset: wall - mono,
		wake:   make(chan struct{}, 1),
		over:   make(chan struct{}),
		gone:   make(chan struct{}),
	}
	w.beat.Store(mono)
	w.asked = append(w.asked, armed{level: beatLevel})
	for i := range s.armed {
		if v := s.armed[i].Load(); v != 0 {
			w.asked = append(w.asked, armed{i >> ringBits, v - 1})
		}
	}
	ws.now = w
	w.wheel.start()
	w.wake <- struct{}{}
	go ws.arm(w)
}

// request has the slot armed on the wheel. It never blocks, and it is called
// with a shard locked.
func (ws *wheels) request(level int, key int64) {
	ws.mu.Lock()
	if w := ws.now; w != nil {
		w.ask(armed{level, key})
	}
	ws.mu.Unlock()
}

// ask queues a request. wheels.mu is held.
func (w *axle) ask(a armed) {
	w.asked = append(w.asked, a)
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// arm is the wheel's armer.
func (ws *wheels) arm(w *axle) {
	defer close(w.gone)
	var todo []armed
	for {
		select {
		case <-w.over:
			return
		case <-w.wake:
		}
		ws.mu.Lock()
		todo, w.asked = w.asked, todo[:0]
		ws.mu.Unlock()
		for _, a := range todo {
			select {
			case <-w.over:
				return
			default:
			}
			ws.armOne(w, a)
		}
	}
}

// armOne makes the call into the library. The library counts wall-clock ticks
// and fires up to one early; the delay asked for is therefore that to the
// first tick of its own that is not before the slot's.
func (ws *wheels) armOne(w *axle, a armed) {
	s := ws.svc
	if a.level == beatLevel {
		w.wheel.after(s.cfg.Watchdog/beats, func() { ws.beaten(w) })
		return
	}
	if s.stepped(w.offset) != 0 {
		ws.check() // the new wheel arms this slot too
		return
	}
	wall, mono := s.clocks()
	at := wall + upAt(a.level, a.key)*s.tick - mono
	if over := at % s.tick; over > 0 {
		at += s.tick - over
	}
	w.wheel.after(time.Duration(at-wall), func() { s.up(a.level, a.key) })
}

// soon is how long a slot waits that keeps coming up early.
const soon = 100 * time.Millisecond

// early arms a slot again that came up before its time: on the runtime's
// timer, for a wheel whose clock runs ahead would bring it up at once, over
// and over.
func (s *Service) early(level int, key int64) {
	s.count.early.Add(1)
	d := time.Duration(upAt(level, key)*s.tick - s.now())
	if d <= soon {
		time.AfterFunc(d, func() { s.up(level, key) })
		return
	}
	time.AfterFunc(soon, func() { s.wheels.request(level, key) })
}

// beaten runs on the goroutine of the library's timer. Each beat also looks for
// slots that are due: one whose library timer was lost is late by a beat.
func (ws *wheels) beaten(w *axle) {
	w.beat.Store(ws.svc.now())
	defer ws.svc.kick()
	ws.mu.Lock()
	if ws.now == w {
		w.ask(armed{level: beatLevel})
	}
	ws.mu.Unlock()
}

// watch is the watchdog.
func (ws *wheels) watch(quit, done chan struct{}) {
	defer close(done)
	t := time.NewTicker(ws.svc.cfg.Watchdog / beats)
	defer t.Stop()
	for round := 0; ; round++ {
		select {
		case <-quit:
			return
		case <-t.C:
			ws.check()
			if sh := ws.svc.shards; round%beats == 0 {
				for i := range sh {
					sh[i].trim()
				}
			}
		}
	}
}

// check gives the wheel up if it is dead or lives by another clock.
func (ws *wheels) check() {
	s := ws.svc
	step, silent, dead := ws.giveUp()
	if !dead {
		return
	}
	s.count.rebuilds.Add(1)
	s.cfg.Logger.Warn("timerwheel: new wheel", "clock_step", step, "silent", silent)
	go s.kick() // what is overdue need not wait for it; the armer or the watchdog is the caller
}

func (ws *wheels) giveUp() (step, silent time.Duration, dead bool) {
	s := ws.svc
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if ws.now == nil {
		return 0, 0, false
	}
	step = s.stepped(ws.now.offset)
	silent = time.Duration(s.now() - ws.now.beat.Load())
	if step == 0 && silent <= s.cfg.Watchdog {
		return 0, 0, false
	}
	ws.renew()
	return step, silent, true
}

// clocks reads the wall clock and the monotonic one together.
func (s *Service) clocks() (wall, mono int64) {
	t := time.Now()
	return s.wall(t), int64(t.Sub(s.base))
}

// stepped returns how far the wall clock has been stepped against the
// monotonic one, 0 when by too little to matter. Of a few readings the
// smallest difference counts: the goroutine may lose its CPU in between.
func (s *Service) stepped(offset int64) time.Duration {
	var step int64
	for i := range 3 {
		wall, mono := s.clocks()
		if d := wall - mono - offset; i == 0 || abs(d) < abs(step) {
			step = d
		}
	}
	if abs(step) <= max(2*s.tick, int64(20*time.Millisecond)) {
		return 0
	}
	return time.Duration(step)
}

func abs(n int64) int64 { return max(n, -n) }
