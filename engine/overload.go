package engine

import (
	"fmt"
	"time"

	"millrace/codec"
)

// Overload configures what a Server does under overload, and whom it affects. Stats.Limited and
// Stats.Refused count the consequences. All fields are off by default.
type Overload struct {
	// WaitBudget is how long a request may wait for its handler, from when it was read, under
	// overload: when all requests that are about to run have waited longer, for 100 ms, those that
	// have get ERROR 4 instead. It applies to workers. System frames have no budget, and time in
	// which the peer did not read its answers does not count. 0 or Off = none.
	WaitBudget time.Duration
	// HandleWaits are the WaitBudgets of single handles; with Off a handle's requests are always
	// handled.
	HandleWaits map[uint32]time.Duration

	// AcceptRate is how many connections may be accepted in a second, and AcceptRatePerIP from one
	// address, where an IPv6 network of IPv6Prefix counts as one; a second's worth may arrive at
	// once. More are refused with ERROR 12. With TLS or WebSocket, AcceptRate closes connections
	// before the handshake. 0 or Off = no limit.
	AcceptRate, AcceptRatePerIP int
	// FrameRate and ByteRate are how many frames and bytes of one session are read in a second; a
	// second's worth may arrive at once, in addition to one read. Above it reading pauses; if that
	// is not possible the session gets ERROR 12 and is closed. 0 or Off = no limit.
	FrameRate, ByteRate int
	// SessionCPU is how much time one session's callbacks, and writes to it, may use in a second,
	// as measured for Costs. Above it reading pauses, as for FrameRate; requests already read are
	// handled. 0 or Off = no limit.
	SessionCPU time.Duration

	// Costs accounts the time that each session, tag and handle uses: see Server.CostReader.
	Costs bool
}

// inUse is the corresponding part of Config.inUse.
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

// metered reports whether sessions have meters.
func (o *Overload) metered() bool {
	return o.FrameRate > 0 || o.ByteRate > 0 || o.costs() || o.waits()
}

// waits reports whether any handle has a budget.
func (o *Overload) waits() bool { return o.WaitBudget > 0 || len(o.HandleWaits) > 0 }

// costs reports whether time is accounted.
func (o *Overload) costs() bool { return o.Costs || o.SessionCPU > 0 }
