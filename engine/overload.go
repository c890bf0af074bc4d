package engine

import (
	"fmt"
	"time"

	"millrace/codec"
)

// Overload says what a Server does about too much work, and whose it is. Stats.Limited and
// Stats.Refused count what comes of it. All is off where it is not set.
type Overload struct {
	// WaitBudget is how long a request may wait for its handler, from when it was read, while
	// there is more to do than can be done: when all that come to their turn have waited for
	// longer, through 100 ms, those that have get ERROR 4 instead. It holds for workers. System
	// frames have no budget, and time in which the peer left its answers unread does not count.
	// 0 or Off = none.
	WaitBudget time.Duration
	// HandleWaits are the WaitBudgets of single handles: Off for requests that are handled
	// however long they have waited.
	HandleWaits map[uint32]time.Duration

	// AcceptRate is how many connections may come in a second, and AcceptRatePerIP from one
	// address, an IPv6 network of IPv6Prefix counting as one; a second's worth may come at once.
	// More are refused with ERROR 12. Where TLS or a WebSocket stands in front, AcceptRate
	// closes them in front of that. 0 or Off = no limit.
	AcceptRate, AcceptRatePerIP int
	// FrameRate and ByteRate are how many frames and bytes of one session are read in a second;
	// a second's worth may come at once, with what one read brings. Past it reading pauses;
	// where that is not possible the session gets ERROR 12 and is closed. 0 or Off = no limit.
	FrameRate, ByteRate int
	// SessionCPU is how much time one session's callbacks, and writes to it, may take in a
	// second, as Costs counts it. Past it reading pauses, as for FrameRate; what was read is
	// handled. 0 or Off = no limit.
	SessionCPU time.Duration

	// Costs keeps account of the time that each session, tag and handle takes: see
	// Server.CostReader.
	Costs bool
}

// inUse is Config.inUse's part.
func (o *Overload) inUse() {
	swap(&o.WaitBudget, Off, 0)
	swap(&o.AcceptRate, Off, 0)
	swap(&o.AcceptRatePerIP, Off, 0)
	swap(&o.FrameRate, Off, 0)
	swap(&o.ByteRate, Off, 0)
	swap(&o.SessionCPU, Off, 0)
}

// validate reports every fault.
func (o *Overload) validate(bad func(field string, v any, why string)) {
	for _, x := range []struct {
		field string
		v     int
	}{
		{"AcceptRate", o.AcceptRate}, {"AcceptRatePerIP", o.AcceptRatePerIP},
		{"FrameRate", o.FrameRate}, {"ByteRate", o.ByteRate},
	} {
		if x.v < 0 {
			bad(x.field, x.v, "must be 1 or more in a second, or off")
		}
	}
	for _, x := range []struct {
		field string
		v     time.Duration
	}{{"WaitBudget", o.WaitBudget}, {"SessionCPU", o.SessionCPU}} {
		if x.v != 0 && x.v < time.Millisecond {
			bad(x.field, x.v, "must be at least 1ms, or off")
		}
	}
	for handle, d := range o.HandleWaits {
		if main, sub := codec.Split(handle); d != Off && d < time.Millisecond {
			bad("HandleWaits", fmt.Sprintf("%d/%d=%v", main, sub, d), "must be at least 1ms, or off")
		}
	}
}

// metered tells whether sessions have meters.
func (o *Overload) metered() bool {
	return o.FrameRate > 0 || o.ByteRate > 0 || o.costs() || o.waits()
}

// waits tells whether any handle has a budget.
func (o *Overload) waits() bool { return o.WaitBudget > 0 || len(o.HandleWaits) > 0 }

// costs tells whether time is counted.
func (o *Overload) costs() bool { return o.Costs || o.SessionCPU > 0 }
