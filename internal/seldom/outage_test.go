package seldom

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// recorded is an Outage whose lines are kept.
func recorded(lines *[]string) *Outage {
	return &Outage{
		Lost: func(n int, err error, away time.Duration, first bool) {
			*lines = append(*lines, fmt.Sprintf("lost %d %v %v %v", n, err, away.Round(time.Millisecond), first))
		},
		Back: func(away time.Duration, err error) {
			*lines = append(*lines, fmt.Sprintf("back %v %v", away.Round(time.Millisecond), err))
		},
	}
}

func TestAnOutageIsToldOnce(t *testing.T) {
	refused := errors.New("refused")
	for _, c := range []struct {
		name string
		run  func(o *Outage)
		want []string
	}{
		{"four notice it, and try again", func(o *Outage) {
			for range 4 {
				o.Fail(errors.New("reset"))
			}
			time.Sleep(time.Second)
			for range 100 {
				o.Fail(refused)
				time.Sleep(100 * time.Millisecond)
			}
			o.Fine()
			o.Fine()
		}, []string{"lost 4 reset 200ms true", "back 11s <nil>"}},
		{"a long one", func(o *Outage) {
			for range 65 {
				o.Fail(refused)
				time.Sleep(time.Second)
			}
			o.Fine()
		}, []string{"lost 1 refused 200ms true", "lost 30 refused 30.2s false", "lost 30 refused 1m0.2s false", "back 1m5s <nil>"}},
		{"back at once", func(o *Outage) {
			o.Fail(refused)
			time.Sleep(Gather / 2)
			o.Fine()
			time.Sleep(time.Hour)
		}, []string{"back 100ms refused"}},
		{"two", func(o *Outage) {
			for range 2 {
				o.Fail(refused)
				time.Sleep(time.Second)
				o.Fine()
			}
		}, []string{"lost 1 refused 200ms true", "back 1s <nil>", "lost 1 refused 200ms true", "back 1s <nil>"}},
		{"none", func(o *Outage) { o.Fine(); time.Sleep(time.Hour) }, nil},
		{"ended", func(o *Outage) {
			o.Fail(refused)
			o.End()
			time.Sleep(time.Hour)
			o.Fine()
			o.Fail(refused)
			time.Sleep(time.Second)
			o.End()
			time.Sleep(time.Hour)
		}, []string{"lost 1 refused 200ms true"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var lines []string
				c.run(recorded(&lines))
				if !slices.Equal(lines, c.want) {
					t.Errorf("got %q\nwant %q", lines, c.want)
				}
			})
		})
	}
}
