package services_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/codec"
	"millrace/engine"
	"millrace/services"
	"millrace/services/client"
)

// Many more calls at once than may be owed: every caller gets its own answer, or an
// error, and the connection goes on.
func TestManyCallsAtOnceToADeferringService(t *testing.T) {
	for name, layout := range map[string]codec.Layout{"by order": {}, "by sequence number": {Seq: true}} {
		sizes := []int{6000} // 4,096 may be owed
		if *long {
			sizes = append(sizes, 100_000)
		}
		for _, n := range sizes {
			t.Run(fmt.Sprintf("%s/%d", name, n), func(t *testing.T) {
				var mu sync.Mutex
				var replies []*services.Reply
				var open bool
				r := serve(t, func(cc *services.ControllerConfig, ec *engine.Config) { cc.Layout, ec.Layout = layout, layout }, func(c *services.Controller) {
					must(t, services.Register(c, hOther, services.Stages[order, order]{
						Handle: func(ctx *services.Context, req, res *order) error {
							res.ID = req.ID
							mu.Lock()
							defer mu.Unlock()
							if !open {
								replies = append(replies, ctx.Defer())
							}
							return nil
						}}))
				})
				c := r.dial(func(cfg *client.Config) { cfg.Layout, cfg.MaxCalls = layout, 1<<20 })
				var own, refused, wrong atomic.Int64
				var wg sync.WaitGroup
				for i := range n {
					wg.Go(func() {
						res, err := client.Call[order, order](limited(t), c, hOther, order{ID: i + 1})
						var e *client.Error
						switch {
						case err == nil && res.ID == i+1:
							own.Add(1)
						case errors.As(err, &e) && e.Code == uint16(engine.CodeLimit):
							refused.Add(1)
						default:
							wrong.Add(1)
							t.Logf("call %d: got %+v, %v", i+1, res, err)
						}
					})
				}
				for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
					mu.Lock()
					full := len(replies) >= 4096
					mu.Unlock()
					if full {
						break
					} else if time.Now().After(end) {
						t.Fatal("the queue never fills")
					}
				}
				for r.srv.Stats().FramesIn < uint64(n) { // the rest is refused meanwhile
					time.Sleep(time.Millisecond)
				}
				mu.Lock()
				open = true
				for _, i := range rand.Perm(len(replies)) {
					replies[i].Done(nil, nil)
				}
				mu.Unlock()
				wg.Wait()
				if wrong.Load() > 0 || own.Load() < 4096 || refused.Load() == 0 || own.Load()+refused.Load() != int64(n) {
					t.Errorf("%d own answers, %d refused, %d wrong, of %d", own.Load(), refused.Load(), wrong.Load(), n)
				}
				if connects, _ := c.Stats(); connects != 1 {
					t.Errorf("%d connections", connects)
				}
			})
		}
	}
}

// cutter is a dialer whose connections can be cut by the test.
type cutter struct {
	mu    sync.Mutex
	conns []net.Conn
}

func (k *cutter) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err == nil {
		k.mu.Lock()
		k.conns = append(k.conns, conn)
		k.mu.Unlock()
	}
	return conn, err
}

// cut ends the last connection, by a reset or a FIN.
func (k *cutter) cut() {
	k.mu.Lock()
	defer k.mu.Unlock()
	conn := k.conns[len(k.conns)-1].(*net.TCPConn)
	if rand.N(2) == 0 {
		_ = conn.SetLinger(0)
	}
	_ = conn.Close()
}

// A history of callers that give up at random, of handlers that answer at once, later,
// twice, never, that refuse, stop and panic, and of cut connections: no caller ever gets
// what is not its own.
func TestNoHistoryHasAnotherCallersAnswer(t *testing.T) {
	for name, layout := range map[string]codec.Layout{"by order": {}, "by sequence number": {Seq: true}} {
		t.Run(name, func(t *testing.T) {
			r := serve(t, func(cc *services.ControllerConfig, ec *engine.Config) {
				cc.Layout, ec.Layout = layout, layout
				cc.MaxDeferred, cc.Timeout = 40, 200*time.Millisecond
			}, func(c *services.Controller) {
				for h := range uint32(3) {
					must(t, services.Register(c, hOther+h, services.Stages[order, order]{Handle: misbehave}))
				}
			})
			var k cutter
			c := r.dial(func(cfg *client.Config) {
				cfg.Layout, cfg.Dialer, cfg.MinBackoff, cfg.MaxBackoff = layout, k.dial, time.Millisecond, 5*time.Millisecond
			})
			var counts [4]atomic.Int64 // own answer, ERROR, given up, lost
			stop := make(chan struct{})
			var cuts sync.WaitGroup
			cuts.Go(func() {
				for {
					select {
					case <-stop:
						return
					case <-time.After(rand.N(200 * time.Millisecond)):
						k.cut()
					}
				}
			})
			calls := 150
			if *long {
				calls = 20000
			}
			var id atomic.Int64
			var wg sync.WaitGroup
			for range 64 {
				wg.Go(func() {
					for range calls {
						me := int(id.Add(1))
						ctx, cancel := limited(t), context.CancelFunc(func() {})
						if rand.N(3) == 0 {
							ctx, cancel = context.WithTimeout(ctx, rand.N(20*time.Millisecond))
						}
						res, err := client.Call[order, order](ctx, c, hOther+rand.N(uint32(3)), order{ID: me})
						cancel()
						var e *client.Error
						switch {
						case err == nil && res.ID == me:
							counts[0].Add(1)
						case errors.Is(err, client.ErrLost):
							counts[3].Add(1)
						case errors.As(err, &e):
							counts[1].Add(1)
							if e.Code == uint16(engine.CodeConflict) && e.Text != fmt.Sprint(me) {
								t.Errorf("call %d got the ERROR of call %s", me, e.Text)
							}
						case ctx.Err() != nil:
							counts[2].Add(1)
						default:
							t.Errorf("call %d got %+v, %v", me, res, err)
						}
					}
				})
			}
			wg.Wait()
			close(stop)
			cuts.Wait()
			for i := range counts {
				if counts[i].Load() == 0 {
					t.Errorf("outcome %d never came up", i)
				}
			}
			t.Logf("%d own answers, %d errors, %d given up, %d lost", counts[0].Load(), counts[1].Load(), counts[2].Load(), counts[3].Load())
		})
	}
}

// misbehave is a Handle stage that does one of all that stages do.
func misbehave(ctx *services.Context, req, res *order) error {
	id := req.ID
	res.ID = id
	switch rand.N(16) {
	case 0:
		return services.Stop
	case 1:
		return services.Errorf(engine.CodeConflict, "%d", id)
	case 2:
		if rand.N(20) == 0 {
			panic("on purpose")
		}
	case 3:
		ctx.Defer() // for ever
		if rand.N(10) > 0 {
			return services.Errorf(engine.CodeConflict, "%d", id)
		}
	case 4, 5, 6, 7:
		reply := ctx.Defer()
		time.AfterFunc(rand.N(10*time.Millisecond), func() { reply.Done(order{ID: id}, nil) })
		time.AfterFunc(rand.N(10*time.Millisecond), func() { reply.Done(order{ID: id}, nil) })
	case 8:
		ctx.Defer().Done(nil, services.Errorf(engine.CodeConflict, "%d", id))
	case 9:
		ctx.Defer().DoneHere(order{ID: id}, nil)
	}
	return nil
}
