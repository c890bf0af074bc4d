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
var ErrNotRunning = errors.New("timerwheel: not running: timers are set between Start and Stop")

// ErrTooManyTimers: the limit Config.MaxTimers of the service or Config.MaxPerSet of this Set is
// reached. Nothing was set.
var ErrTooManyTimers = errors.New("timerwheel: too many timers")

// ErrInCallback: the call would wait for a run to return, but was made by a callback, which might
// wait for itself.
var ErrInCallback = errors.New("timerwheel: a callback can't wait for a run")

// ErrPeriod: a timer that fires more than once needs a period above zero, and
// no repeat count is below zero.
var ErrPeriod = errors.New("timerwheel: bad period or repeat count")

// ErrNoFunc: SetTimer was given a nil function.
var ErrNoFunc = errors.New("timerwheel: nil function")

// ErrSetClosed: the Set was closed, or its submitter is closed. errors.Is(err, net.ErrClosed) is
// true.
var ErrSetClosed = fmt.Errorf("timerwheel: set: %w", net.ErrClosed)

// A Submitter runs functions on goroutines of its own: a worker pool, or one session's strand.
//
// Submit returns nil if fn will run exactly once. An error that is net.ErrClosed closes a Set made
// by For; any other error, and every error of the service's own Submitter, means that it is full
// now: the firings are offered again on the next tick. Submit must not block: while it does, its
// own firings wait, and those of others are up to a tick late.
type Submitter interface {
	Submit(fn func()) error
}

// Config holds a Service's settings. The zero value of a field means its default.
type Config struct {
	// Tick is the resolution: a timer fires on the first tick at or after its
	// deadline. A whole number of milliseconds, 1 ms to 1 s. Default 1 ms.
	Tick time.Duration
	// WheelSize is the number of buckets in each of the library's wheels,
	// 16 to 65,536. Default 512.
	WheelSize int
	// Slack is how much later than its tick a timer may fire while more than 48 fire on each tick.
	// Ticks are then coalesced: as many together as give 800 firings, at least two, because waking
	// up costs more than firing. Below two ticks, or negative: no coalescing. Up to 1 s. Default 8
	// ms.
	Slack time.Duration
	// Shards is the number of locks that timers are spread over, a power of
	// two up to 256. Default: the next power of two above 2 x GOMAXPROCS.
	Shards int
	// MaxTimers limits the timers held at one time, all Sets together. A timer takes about 100
	// bytes, and up to 350 while a firing of it waits for its Submitter. Timers that have ended and
	// are not removed yet count too, and so do firings whose timer was killed before they ran,
	// until they are discarded. Above the limit SetTimer returns ErrTooManyTimers. Default
	// 8,388,608.
	MaxTimers int
	// MaxPerSet limits the same for each Set made by For, not for the service's own timers. Default
	// 65,536.
	MaxPerSet int
	// Watchdog is how long a wheel that has stopped may go unnoticed while timers are due. Timers
	// are then late by a quarter of it. 100 ms to 10 s. Default 1 s.
	Watchdog time.Duration
	// Logger receives panics of callbacks (one line for each place in the code) and replacements of
	// the wheel. Default slog.Default().
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
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

func (c Config) validate() error {
	var errs []error
	want := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf("timerwheel: "+format, args...))
		}
	}
	want(c.Tick >= time.Millisecond && c.Tick <= time.Second && c.Tick%time.Millisecond == 0,
		"Tick %v: want whole milliseconds, 1ms to 1s", c.Tick)
	want(c.WheelSize >= 16 && c.WheelSize <= 65536, "WheelSize %d: want 16 to 65536", c.WheelSize)
	want(c.Slack <= time.Second, "Slack %v: want 1s or less", c.Slack)
	want(c.Shards > 0 && c.Shards <= 256 && c.Shards&(c.Shards-1) == 0,
		"Shards %d: want a power of two up to 256", c.Shards)
	want(c.MaxTimers > 0 && c.MaxTimers <= 1<<30, "MaxTimers %d: want 1 to %d", c.MaxTimers, 1<<30)
	want(c.MaxPerSet > 0, "MaxPerSet %d: want 1 or more", c.MaxPerSet)
	want(c.Watchdog >= 100*time.Millisecond && c.Watchdog <= 10*time.Second,
		"Watchdog %v: want 100ms to 10s", c.Watchdog)
	return errors.Join(errs...)
}
