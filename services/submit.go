package services

import (
	"errors"
	"net"
	"time"
)

// Submitter runs completions: *engine.Session (in the session's order) and *engine.Pool (in no
// order) implement it.
//
// Submit returns nil if fn will run exactly once, an error for which errors.Is(err, net.ErrClosed)
// if the target has closed, and any other error if it is full at present.
type Submitter interface {
	Submit(fn func()) error
}

// Back-off of a completion whose submitter is full.
const (
	submitBackoffMin = time.Millisecond
	submitBackoffMax = 100 * time.Millisecond
)

// Deliver is for implementers of a Cache: it runs fn on on (nil: on the calling
// goroutine), retrying while on is full, and calls gone instead (if not nil) once on
// has closed. Exactly one of the two is called, once.
func Deliver(on Submitter, fn, gone func()) { deliver(on, fn, gone) }

// deliver runs fn on on, retrying while on is full, and calls gone instead once on has closed. If
// on is nil, fn runs on the calling goroutine. Exactly one of fn and gone is called, once.
func deliver(on Submitter, fn, gone func()) {
	if on == nil {
		fn()
		return
	}
	deliverAfter(on, fn, gone, submitBackoffMin)
}

func deliverAfter(on Submitter, fn, gone func(), backoff time.Duration) {
	err := on.Submit(fn)
	switch {
	case err == nil:
	case errors.Is(err, net.ErrClosed):
		if gone != nil {
			gone()
		}
	default:
		time.AfterFunc(backoff, func() {
			deliverAfter(on, fn, gone, min(2*backoff, submitBackoffMax))
		})
	}
}
