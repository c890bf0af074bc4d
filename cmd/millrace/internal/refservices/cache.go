package refservices

import (
	"encoding/json"
	"errors"
	"hash/maphash"
	"math"
	"sync"
	"time"

	"millrace/services"
	"millrace/services/serial"
)

type rawMessage = json.RawMessage

var null = rawMessage("null")

var seed = maphash.MakeSeed()

func hashKey(key string) uint64 { return maphash.String(seed, key) }

type setRequest struct {
	Key string     `json:"key"`
	Val rawMessage `json:"val"`
}

type okReply struct {
	OK bool `json:"ok"`
}

type keyRequest struct {
	Key string `json:"key"`
}

type getReply struct {
	Found bool       `json:"found"`
	Val   rawMessage `json:"val"`
}

type compareRequest struct {
	Key    string     `json:"key"`
	Expect rawMessage `json:"expect"`
	Val    rawMessage `json:"val"`
}

type compareReply struct {
	Swapped bool       `json:"swapped"`
	Val     rawMessage `json:"val"`
}

type lockRequest struct {
	Key  string `json:"key"`
	TTL  int64  `json:"ttl_ms"`
	Wait int64  `json:"wait_ms"`
}

type lockReply struct {
	Locked bool   `json:"locked"`
	Token  uint64 `json:"token"`
}

type unlockRequest struct {
	Key   string `json:"key"`
	Token uint64 `json:"token"`
}

type unlockReply struct {
	Unlocked bool `json:"unlocked"`
}

// Validate checks the ranges.
func (r *lockRequest) Validate() error {
	if r.TTL < 1 || r.Wait < 0 {
		return errors.New("ttl_ms must be at least 1, wait_ms at least 0")
	}
	return nil
}

// millis is that many milliseconds, saturating.
func millis(n int64) time.Duration {
	return time.Duration(min(n, math.MaxInt64/int64(time.Millisecond))) * time.Millisecond
}

// cache registers 5/1 to 5/5. Values are stored as they were sent.
func (x *Services) cache() error {
	var opts []services.Option
	if x.cfg.Shared {
		opts = append(opts, services.Blocking())
	}
	c := x.Controller
	return errors.Join(
		services.Register(c, hSet, services.Stages[setRequest, okReply]{Handle: x.set}, opts...),
		services.Register(c, hGet, services.Stages[keyRequest, getReply]{Handle: x.get}, opts...),
		services.Register(c, hCompare, services.Stages[compareRequest, compareReply]{Handle: x.compare}, opts...),
		services.Register(c, hLock, services.Stages[lockRequest, lockReply]{Handle: x.lock}, append(opts, services.Timeout(services.Forever))...),
		services.Register(c, hUnlock, services.Stages[unlockRequest, unlockReply]{Handle: x.unlock}, opts...))
}

func (x *Services) set(ctx *services.Context, req *setRequest, res *okReply) error {
	if err := x.maySet(ctx.Session(), req.Key); err != nil {
		return err
	}
	_, err := x.Cache.Set(ctx, req.Key, req.Val, 0)
	res.OK = true
	return err
}

func (x *Services) get(ctx *services.Context, req *keyRequest, res *getReply) error {
	e, err := x.Cache.Get(ctx, req.Key)
	if errors.Is(err, services.ErrNotFound) {
		res.Val = null
		return nil
	}
	*res = getReply{true, e.Value}
	return err
}

func (x *Services) compare(ctx *services.Context, req *compareRequest, res *compareReply) error {
	var expect []byte // nil: it must not exist
	if string(req.Expect) != "null" {
		expect = req.Expect
	}
	if err := x.maySet(ctx.Session(), req.Key); err != nil {
		return err
	}
	swapped, e, err := services.CompareAndSetFunc(ctx, x.Cache, req.Key, expect, req.Val, 0, serial.JSONEqual)
	*res = compareReply{swapped, e.Value}
	if e.Revision == 0 {
		res.Val = null
	}
	return err
}

// lockCall is the state of a 5/4 between Lock and the cache's answer.
type lockCall struct {
	mu    sync.Mutex
	reply *services.Reply // set if the answer is deferred
	over  bool            // the cache has answered before the stage returned
	token uint64
	err   error
}

func answerLock(token uint64) lockReply { return lockReply{token != 0, token} }

// finish is called by the cache, once, on any goroutine, also inside Lock.
func (l *lockCall) finish(token uint64, err error) {
	l.mu.Lock()
	l.over, l.token, l.err = true, token, err
	reply := l.reply
	l.mu.Unlock()
	if reply != nil {
		reply.Done(answerLock(token), err)
	}
}

func (x *Services) lock(ctx *services.Context, req *lockRequest, res *lockReply) error {
	x.endLocksWith(ctx.Session())
	o := services.LockOptions{TTL: millis(req.TTL), Wait: millis(req.Wait), Owner: ctx.Session()}
	if req.Wait == 0 {
		token, err := services.LockAndWait(ctx, x.Cache, req.Key, o)
		*res = answerLock(token)
		return err
	}
	if !x.Cache.Running() {
		return services.ErrCacheDown // now, not when the wait ends
	}
	call := &lockCall{}
	cancel, err := x.Cache.Lock(req.Key, o, call.finish)
	if err != nil {
		return err
	}
	call.mu.Lock()
	defer call.mu.Unlock()
	if call.over { // no wait, so it is answered in order
		*res = answerLock(call.token)
		return call.err
	}
	reply := ctx.Defer()
	call.reply = reply
	reply.OnEnd(func() { // no more requests can arrive: answer the waiting one
		cancel()
		reply.Done(lockReply{}, nil) // no effect if it was already answered
	})
	return nil
}

func (x *Services) unlock(ctx *services.Context, req *unlockRequest, res *unlockReply) (err error) {
	res.Unlocked, err = x.Cache.Unlock(ctx, req.Key, req.Token)
	return err
}
