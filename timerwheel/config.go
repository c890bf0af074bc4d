package timerwheel

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"time"
)

// ErrNotRunning: the service has not been started, or has been stopped.
var ErrNotRunning = errors.New("timerwheel: not running")

// ErrTooManyTimers: Config.MaxTimers timers of the service, or
// Config.MaxPerSet of this Set, are pending. Nothing was set.
var ErrTooManyTimers = errors.New("timerwheel: too many timers")

// ErrPeriod: a timer that fires more than once needs a period above zero, and
// no repeat count is below zero.
var ErrPeriod = errors.New("timerwheel: bad period or repeat count")

// ErrNoFunc: SetTimer was given a nil function.
var ErrNoFunc = errors.New("timerwheel: nil function")

// ErrSetClosed: the Set was closed, or its submitter has gone. It is a
// net.ErrClosed.
var ErrSetClosed = fmt.Errorf("timerwheel: set: %w", net.ErrClosed)

// A Submitter runs functions on goroutines of its own: a worker pool, or one
// session's strand.
//
// Submit returns nil when fn will run exactly once, an error that is
// net.ErrClosed when the target has gone for good, and any other error when it
// is full for now. It must not block: the goroutine that hands out due timers
// calls it.
type Submitter interface {
	Submit(fn func()) error
}

// Config holds a Service's settings. The zero value of a field means its default.
type Config struct {
	// Tick is the resolution: a timer fires on the first tick at or after its
	// deadline. A whole number of milliseconds, 1 ms to 1 s. Default 1 ms.
	Tick time.Duration
	// WheelSize is the number of buckets in each wheel of the library beneath,
	// 16 to 65,536. Default 512.
	WheelSize int
	// Slack is how much later than its tick a timer may come while more than 48
	// fire on each tick: those of several ticks are then brought up together,
	// as few as make 800 but two at least, for waking up is what firing them
	// costs most. Below two ticks, or below 0, is none. Up to 1 s. Default 8 ms.
	Slack time.Duration
	// Shards is the number of locks that timers are spread over, a power of
	// two up to 256. Default: the next power of two above 2 x GOMAXPROCS.
	Shards int
	// MaxTimers bounds the timers pending at one time, all Sets together; one
	// takes about 100 bytes. SetTimer beyond it gets ErrTooManyTimers.
	// Default 8,388,608.
	MaxTimers int
	// MaxPerSet bounds the timers pending in each Set that For made, not in
	// the service's own. Default 65,536.
	MaxPerSet int
	// Watchdog is how long the wheel may go without a beat before it is taken
	// for dead and built anew. A stepped wall clock is noticed sooner.
	// 100 ms to 10 s. Default 1 s.
	Watchdog time.Duration
	// KillWait is how long KillTimer, KillAllTimers and a SetTimer on a live id
	// wait for a run that they find started, so that it is sure to have begun
	// before they return; below 0 is not at all, and a run whose worker lost
	// its CPU at the very call may then be seen to begin after. Up to 1 s.
	// Default 20 ms.
	KillWait time.Duration
	// Logger gets panics of callbacks (one line for each place in the code)
	// and rebuilds. Default slog.Default().
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.Tick == 0 {
		c.Tick = time.Millisecond
	}
	if c.WheelSize == 0 {
		c.WheelSize = 512
	}
	if c.Slack == 0 {
		c.Slack = 8 * time.Millisecond
	}
	if c.Shards == 0 {
		c.Shards = 1
		for c.Shards <= 2*runtime.GOMAXPROCS(0) && c.Shards < 256 {
			c.Shards *= 2
		}
	}
	if c.MaxTimers == 0 {
		c.MaxTimers = 8 << 20
	}
	if c.MaxPerSet == 0 {
		c.MaxPerSet = 64 << 10
	}
	if c.Watchdog == 0 {
		c.Watchdog = time.Second
	}
	if c.KillWait == 0 {
		c.KillWait = 20 * time.Millisecond
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

func (c Config) validate() error {
	var errs []error
	bad := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf("timerwheel: "+format, args...))
		}
	}
	bad(c.Tick >= time.Millisecond && c.Tick <= time.Second && c.Tick%time.Millisecond == 0,
		"Tick %v: want whole milliseconds, 1ms to 1s", c.Tick)
	bad(c.WheelSize >= 16 && c.WheelSize <= 65536, "WheelSize %d: want 16 to 65536", c.WheelSize)
	bad(c.Slack <= time.Second, "Slack %v: want 1s or less", c.Slack)
	bad(c.Shards > 0 && c.Shards <= 256 && c.Shards&(c.Shards-1) == 0,
		"Shards %d: want a power of two up to 256", c.Shards)
	bad(c.MaxTimers > 0 && c.MaxTimers <= 1<<30, "MaxTimers %d: want 1 to %d", c.MaxTimers, 1<<30)
	bad(c.MaxPerSet > 0, "MaxPerSet %d: want 1 or more", c.MaxPerSet)
	bad(c.Watchdog >= 100*time.Millisecond && c.Watchdog <= 10*time.Second,
		"Watchdog %v: want 100ms to 10s", c.Watchdog)
	bad(c.KillWait <= time.Second, "KillWait %v: want 1s or less", c.KillWait)
	return errors.Join(errs...)
}
