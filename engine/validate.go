package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"time"
	"unicode/utf8"
)

// ConfigError reports an invalid field of Config.
type ConfigError struct {
	Field string // as in Config
	Value any
	Why   string // what is wrong and how to fix it
}

func (e *ConfigError) Error() string {
	return fmt.Sprintf("engine: %s = %v: %s", e.Field, e.Value, e.Why)
}

// maxKeepAlive is the longest time that Linux takes for TCP_KEEPIDLE and TCP_KEEPINTVL.
const maxKeepAlive = 32767 * time.Second

// validate reports every fault of a config returned by inUse.
func (c Config) validate() error {
	var errs []error
	bad := func(field string, v any, why string) {
		errs = append(errs, &ConfigError{field, v, why})
	}
	within := func(field string, v int, least, most int64) {
		if int64(v) < least || int64(v) > most {
			bad(field, v, fmt.Sprintf("must be %d to %d", least, most))
		}
	}
	if len(c.Addrs) == 0 {
		bad("Addrs", "none", "give at least one, such as tcp://127.0.0.1:7000")
	}
	if err := c.validateFraming(bad); err != nil {
		errs = append(errs, err)
	}
	c.validateDoors(bad)
	within("RecorderKeep", c.RecorderKeep, 1, 1<<16)
	within("Loops", c.Loops, 1, 1024)
	within("Workers", c.Workers, 1, 1<<16)
	within("SpareWorkers", c.SpareWorkers, 0, 1<<16)
	within("MaxQueue", c.MaxQueue, 1, 1<<24)
	within("MaxFrame", c.MaxFrame, 0, 1<<30)
	within("MaxConns", c.MaxConns, 0, 1<<24)
	within("MaxConnsPerIP", c.MaxConnsPerIP, 0, 1<<24)
	within("IPv6Prefix", c.IPv6Prefix, 1, 128)
	within("MaxRefused", c.MaxRefused, 1, 1<<24)
	within("MaxOutbound", c.MaxOutbound, 1<<10, 1<<30)
	within("MaxPending", c.MaxPending, 1<<10, 1<<30)
	within("MaxTasks", c.MaxTasks, 1, 1<<24)
	within("MaxOutbox", c.MaxOutbox, 1<<10, 1<<31-1)
	within("MemoryBudget", c.MemoryBudget, 1<<16, 1<<48)
	within("MaxGroups", c.MaxGroups, 1, 1<<16)
	within("ResumeBytes", c.ResumeBytes, 1<<10, 1<<30)
	within("MaxHandshakes", c.MaxHandshakes, 1, 1<<20)
	within("HandshakeRate", c.HandshakeRate, 0, 1<<20)
	within("MaxRatio", c.MaxRatio, 0, 1<<20)
	within("ReadBuffer", c.ReadBuffer, 1<<10, 16<<20)
	within("DrainRate", c.DrainRate, 0, 1<<24)
	within("DrainBudget", c.DrainBudget, 1, 1<<20)
	within("SocketRecvBuffer", c.SocketRecvBuffer, 0, 1<<30)
	within("SocketSendBuffer", c.SocketSendBuffer, 0, 1<<30)
	within("KeepAliveCount", c.KeepAliveCount, 1, 127)
	for _, d := range []struct {
		field string
		v     time.Duration
		least time.Duration
	}{
		{"StallAfter", c.StallAfter, 10 * time.Millisecond},
		{"FirstFrameTimeout", c.FirstFrameTimeout, 10 * time.Millisecond},
		{"FrameTimeout", c.FrameTimeout, 10 * time.Millisecond},
		{"IdleTimeout", c.IdleTimeout, 10 * time.Millisecond},
		{"Heartbeat", c.Heartbeat, 10 * time.Millisecond},
		{"Linger", c.Linger, time.Millisecond},
		{"HandshakeTimeout", c.HandshakeTimeout, 10 * time.Millisecond},
		{"FinTimeout", c.FinTimeout, time.Millisecond},
		{"Resume", c.Resume, 10 * time.Millisecond},
		{"KeepAlive", c.KeepAlive, time.Second},
		{"KeepAliveEvery", c.KeepAliveEvery, time.Second},
		{"UserTimeout", c.UserTimeout, time.Millisecond},
	} {
		if d.v != 0 && d.v < d.least {
			bad(d.field, d.v, fmt.Sprintf("must be at least %v, or off", d.least))
		}
	}
	if c.KeepAlive > maxKeepAlive {
		bad("KeepAlive", c.KeepAlive, fmt.Sprintf("must be at most %v, or off", maxKeepAlive))
	}
	if c.KeepAliveEvery > maxKeepAlive {
		bad("KeepAliveEvery", c.KeepAliveEvery, fmt.Sprintf("must be at most %v", maxKeepAlive))
	}
	if len(c.DrainTo) > maxDrainTo || len(c.DrainTo) > 0 && !utf8.ValidString(c.DrainTo) {
		bad("DrainTo", c.DrainTo, fmt.Sprintf("must be text of at most %d bytes", maxDrainTo))
	}
	if c.UnixMode&^fs.ModePerm != 0 {
		bad("UnixMode", fmt.Sprintf("%#o", uint32(c.UnixMode)), "must be permissions, such as 0660")
	}
	if int(c.Dispatch) >= len(dispatchNames) {
		bad("Dispatch", uint8(c.Dispatch), "must be Adaptive, Ordered or Inline")
	}
	if int(c.Accept) >= len(acceptNames) {
		bad("Accept", uint8(c.Accept), "must be AcceptReusePort or AcceptSingle")
	}
	if int(c.Recorder) >= len(recorderNames) {
		bad("Recorder", uint8(c.Recorder), "must be RecorderOff, RecorderErrors or RecorderOn")
	}
	if int(c.Balance) >= len(balanceNames) {
		bad("Balance", uint8(c.Balance), "must be RoundRobin, LeastConnections or SourceHash")
	}
	if c.Heartbeat > 0 && c.NoSystemFrames {
		bad("Heartbeat", c.Heartbeat, "needs system frames, which NoSystemFrames turns off")
	}
	c.validateResume(bad)
	c.Overload.validate(bad)
	return errors.Join(errs...)
}

const (
	drainTick  = 20 * time.Millisecond
	drainQuiet = 120 * time.Millisecond // GOAWAY to FIN, and the last request to FIN; 100 ms are documented

	insistAfter = 2 * time.Second // GOAWAY to FIN for a client that keeps sending

	// drainRate is the default of DrainRate, unless reaching all sessions within a quarter of the
	// time needs more.
	drainRate = 200

	maxDrainTo = 256 // bytes of DrainTo
)
