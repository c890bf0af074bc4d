package nodes_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"

	"millrace/services/nodes"
)

// The context of a call behaves like one of the standard library, whoever waits for it and when.
func TestTheContextOfACallEnds(t *testing.T) {
	cause := map[string]struct {
		end  func(*nodes.CallContext, context.CancelFunc)
		want error
	}{
		"with its time":                {func(*nodes.CallContext, context.CancelFunc) { time.Sleep(time.Second) }, context.DeadlineExceeded},
		"with the call":                {func(c *nodes.CallContext, _ context.CancelFunc) { c.End() }, context.Canceled},
		"with that which it is within": {func(_ *nodes.CallContext, cancel context.CancelFunc) { cancel() }, context.Canceled},
	}
	for name, x := range cause {
		for _, early := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					within, cancel := context.WithCancel(background)
					defer cancel()
					c := nodes.NewCallContext(within, time.Now().Add(time.Second), nodes.Caller{User: "ann"})
					if got, ok := nodes.CallerOf(c); !ok || got.User != "ann" {
						t.Errorf("called by %+v, %v", got, ok)
					}
					if at, ok := c.Deadline(); !ok || time.Until(at) != time.Second {
						t.Errorf("deadline %v, %v", at, ok)
					}
					var child context.Context
					if early {
						var end context.CancelFunc
						child, end = context.WithCancel(c)
						defer end()
					}
					if c.Err() != nil {
						t.Error(c.Err())
					}
					x.end(c, cancel)
					if !early {
						var end context.CancelFunc
						child, end = context.WithCancel(c)
						defer end()
					}
					synctest.Wait()
					for _, ctx := range []context.Context{c, child} {
						select {
						case <-ctx.Done():
						default:
							t.Error("it has not ended")
						}
						if !errors.Is(ctx.Err(), x.want) {
							t.Errorf("got %v, want %v", ctx.Err(), x.want)
						}
					}
					c.End()
				})
			})
		}
	}
	sooner, cancel := context.WithTimeout(background, time.Minute)
	defer cancel()
	c := nodes.NewCallContext(sooner, time.Now().Add(time.Hour), nodes.Caller{})
	if at, _ := c.Deadline(); time.Until(at) > time.Minute {
		t.Errorf("deadline in %v, want that which it is within", time.Until(at))
	}
}

// A call of another node allocates little more than a bare request of NATS does.
func TestACallAllocatesLittle(t *testing.T) {
	if underRace {
		t.Skip("the race detector has pools forget")
	}
	url := servers(t)
	all := together(t, url, "a b", sums(t))
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	body := make([]byte, 90)
	if _, err := nc.Subscribe("bare", func(m *nats.Msg) { _ = m.Respond(body) }); err != nil {
		t.Fatal(err)
	}
	per := func(fn func() error) float64 {
		return testing.AllocsPerRun(300, func() {
			if err := fn(); err != nil {
				t.Fatal(err)
			}
		})
	}
	call := per(func() error { _, err := all[0].call(nodes.CallOptions{Node: "b"}); return err })
	bare := per(func() error { _, err := nc.Request("bare", body, patience); return err })
	if call > bare+12 {
		t.Errorf("a call: %v allocations, a bare request: %v", call, bare)
	}
	t.Logf("a call: %v allocations, a bare request: %v", call, bare)
}
