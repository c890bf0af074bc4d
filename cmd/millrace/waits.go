package main

import (
	"errors"
	"strings"
	"time"

	"github.com/alecthomas/kong"
)

// handleWait is how long the requests of one handle may wait: MAIN/SUB=D.
type handleWait struct {
	handle handle
	most   timeout
}

func (w handleWait) String() string { return w.handle.String() + "=" + w.most.String() }

type handleWaits []handleWait

func (w *handleWaits) Decode(ctx *kong.DecodeContext) error {
	return decode(ctx, func(s string) error {
		for _, item := range strings.Split(s, "\n") {
			var one handleWait
			h, most, _ := strings.Cut(item, "=")
			var err error
			if one.handle, err = parseHandle(h); err == nil && most != "off" {
				var d time.Duration
				d, err = time.ParseDuration(most)
				one.most = timeout(d)
			}
			if err != nil || one.most < 0 {
				return errors.New("must be MAIN/SUB=D with a duration such as 50ms, or off, such as 1/4=off")
			}
			*w = append(*w, one)
		}
		return nil
	})
}

// engine converts w for engine.Config. If a handle is given more than once, the last value is used.
func (w handleWaits) engine() map[uint32]time.Duration {
	if len(w) == 0 {
		return nil
	}
	m := map[uint32]time.Duration{}
	for _, one := range w {
		m[one.handle.key()] = one.most.engine()
	}
	return m
}

// perSecond is a number of bytes in a second; 0 or off means no limit.
type perSecond int

func (p perSecond) String() string { return offOr(p == 0, size(p).String()) }

func (p *perSecond) Decode(ctx *kong.DecodeContext) error {
	return decode(ctx, func(s string) error {
		n, ok := parseSize(s)
		if s == "off" {
			n, ok = 0, true
		}
		if !ok {
			return errors.New("must be bytes such as 65536, 64KiB or 1MiB, or off")
		}
		*p = perSecond(n)
		return nil
	})
}
