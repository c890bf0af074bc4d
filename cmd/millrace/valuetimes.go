package main

import (
	"errors"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"millrace/engine"
)

// timeout is a duration; 0 or off means never.
type timeout time.Duration

func (t timeout) String() string { return offOr(t == 0, short(time.Duration(t))) }

func (t *timeout) Decode(ctx *kong.DecodeContext) error {
	return decode(ctx, func(s string) error {
		if s == "off" {
			*t = 0
			return nil
		}
		d, err := time.ParseDuration(s)
		if err != nil || d < 0 {
			return errors.New("must be a duration such as 1500ms, 10s or 2m, or off")
		}
		*t = timeout(d)
		return nil
	})
}

// engine converts t for engine.Config, where 0 would mean the default.
func (t timeout) engine() time.Duration {
	if t == 0 {
		return engine.Off
	}
	return time.Duration(t)
}

// period is a duration above 0 that can't be turned off.
type period time.Duration

func (p period) String() string { return short(time.Duration(p)) }

func (p *period) Decode(ctx *kong.DecodeContext) error {
	return decode(ctx, func(s string) error {
		d, err := time.ParseDuration(s)
		if err != nil || d <= 0 {
			return errors.New("must be a duration above 0, such as 1500ms, 10s or 2m")
		}
		*p = period(d)
		return nil
	})
}

// autoPeriod is a duration above 0, or 0 if it follows from other flags.
type autoPeriod time.Duration

func (p autoPeriod) String() string {
	if p == 0 {
		return "auto"
	}
	return short(time.Duration(p))
}

func (p *autoPeriod) Decode(ctx *kong.DecodeContext) error {
	return decode(ctx, func(s string) error {
		if s == "auto" {
			*p = 0
			return nil
		}
		d, err := time.ParseDuration(s)
		if err != nil || d <= 0 {
			return errors.New("must be a duration above 0, such as 1500ms, 10s or 2m, or auto")
		}
		*p = autoPeriod(d)
		return nil
	})
}

// short formats d without trailing zero units: 5m instead of 5m0s.
func short(d time.Duration) string {
	s := d.String()
	if rest, ok := strings.CutSuffix(s, "m0s"); ok {
		s = rest + "m"
	}
	if rest, ok := strings.CutSuffix(s, "h0m"); ok {
		s = rest + "h"
	}
	return s
}
