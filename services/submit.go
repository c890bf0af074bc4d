package services

import (
	"errors"
	"net"
	"time"
)

// Submitter is where a completion runs: *engine.Session (in that session's
// order) and *engine.Pool (anywhere) have it.
//
// Submit returns nil when fn will run exactly once, an error for which
// errors.Is(err, net.ErrClosed) when the target has gone for good, and any
// other error when it is full just now.
type Submitter interface {
	Submit(fn func()) error
}

// Backoff of a completion whose submitter is full.
const (
	submitBackoffMin = time.Millisecond
	submitBackoffMax = 100 * time.Millisecond
)

// Deliver is for those who write a Cache: it runs fn on on (nil: here), trying
// again while on is full, and calls gone instead (if not nil) once on has
// closed. Exactly one of the two is called, once.
func Deliver(on Submitter, fn, gone func()) { deliver(on, fn, gone) }

// deliver runs fn on on, trying again while on is full, and calls gone instead
// once on has closed. With a nil on, fn runs on the calling goroutine.
// Exactly one of fn and gone is called, once.
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
