package refservices

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"

	"millrace/dbasync"
	"millrace/engine"
	"millrace/services"
	"millrace/services/nodes"
	"millrace/timerwheel"
)

// Schema holds the migrations of the users' table.
//
//go:embed sql/*.sql
var Schema embed.FS

// Config has the parts that the services use. Zero fields mean the defaults.
type Config struct {
	// DB has the users; if nil, 4/1, 4/2, 4/7 and 4/8 answer ERROR unavailable.
	DB *dbasync.DB
	// Ready says whether the database has its tables; nil: always.
	Ready func() bool
	// Timers run delay events.
	Timers *timerwheel.Service
	// Pool runs functions that belong to no session.
	Pool *engine.Pool
	// Cache holds the keys and locks; if nil, New creates a local one with the limits of Memory.
	Cache services.Cache
	// Shared says that Cache's operations use the network, so that 5/* always run on workers.
	Shared bool
	// Memory has the limits of the local cache.
	Memory services.MemoryConfig
	// MaxKeys limits the different keys that one session may set; default 65,536.
	MaxKeys int
	// MaxDelayed limits the pending delay events of one session; default 1,024.
	MaxDelayed int
	// Measure counts the requests of each handle: services.ControllerConfig.Measure.
	Measure bool
	// Node is this process's node in a cluster, or a single node; if nil, 6/* are not served. The
	// caller must start it after New.
	Node *nodes.Node
	// MaxWork limits the requests to other nodes (6/2 to 6/5) in progress; default 4,096. More get
	// ERROR overloaded.
	MaxWork int
	// MaxRooms limits the rooms that run on this node; default 32,768.
	MaxRooms int
	// Logger; default slog.Default().
	Logger *slog.Logger
}

// Services is a controller with these services; further ones may be registered.
type Services struct {
	*services.Controller
	// Cache is the cache in use.
	Cache services.Cache

	cfg     Config
	hasher  *hasher
	keys    sync.Map // *engine.Session to *keySet
	lockers sync.Map // *engine.Session that has requested a lock
	rooms   *nodes.Homes[int64]
	work    chan struct{} // a semaphore for requests to other nodes
}

// handles of the services.
var (
	hRegister = services.Handle(4, 1)
	hLogin    = services.Handle(4, 2)
	hSum      = services.Handle(4, 3)
	hInline   = services.Handle(4, 4)
	hLater    = services.Handle(4, 5)
	hPush     = services.Handle(4, 6)
	hUser     = services.Handle(4, 7)
	hLogout   = services.Handle(4, 8)
	hSet      = services.Handle(5, 1)
	hGet      = services.Handle(5, 2)
	hCompare  = services.Handle(5, 3)
	hLock     = services.Handle(5, 4)
	hUnlock   = services.Handle(5, 5)
	hNodes    = services.Handle(6, 1)
	hCallOn   = services.Handle(6, 2)
	hBind     = services.Handle(6, 3)
	hSendUser = services.Handle(6, 4)
	hRoom     = services.Handle(6, 5)
	hWhere    = services.Handle(6, 7)
)

// Limits on what one session may have waiting.
const (
	// maxDeferred limits deferred answers. Queries, locks and hashes have limits of their own,
	// which are reached earlier.
	maxDeferred = 1 << 17
	// maxHashes limits passwords waiting to be hashed; only a few are hashed in a second.
	maxHashes = 8192
)

// New creates the services.
func New(cfg Config) (*Services, error) {
	if cfg.MaxKeys == 0 {
		cfg.MaxKeys = 1 << 16
	}
	if cfg.MaxWork == 0 {
		cfg.MaxWork = 4096
	}
	if cfg.Ready == nil {
		cfg.Ready = func() bool { return true }
	}
	x := &Services{cfg: cfg, Cache: cfg.Cache, hasher: newHasher(), work: make(chan struct{}, cfg.MaxWork)}
	var err error
	if x.Cache == nil {
		if x.Cache, err = services.NewMemory(cfg.Memory); err != nil {
			return nil, err
		}
	}
	cc := services.ControllerConfig{
		Timers: cfg.Timers, Cache: x.Cache, Logger: cfg.Logger,
		MaxDelayed: cfg.MaxDelayed, MaxDeferred: maxDeferred, Measure: cfg.Measure,
	}
	if cfg.Pool != nil {
		cc.Pool = cfg.Pool
	}
	if x.Controller, err = services.NewController(cc); err != nil {
		return nil, err
	}
	x.OnClose(func(s *engine.Session, _ engine.Reason) {
		x.keys.Delete(s)
		x.lockers.Delete(s)
	})
	return x, errors.Join(x.users(), x.sums(), x.delays(), x.cache(), x.nodes())
}

// endLocksWith releases the session's locks when its peer can send no more requests, even if its
// last request is still running.
func (x *Services) endLocksWith(s *engine.Session) {
	if _, again := x.lockers.LoadOrStore(s, nil); !again {
		context.AfterFunc(s.InputContext(), func() { x.Cache.Release(s) })
	}
}

type sumRequest struct {
	A int64 `json:"a"`
	B int64 `json:"b"`
}

type sumReply struct {
	Sum int64 `json:"sum"`
}

// sums registers 4/3, whose three stages share the work, and 4/4, which calls it twice inline.
func (x *Services) sums() error {
	return errors.Join(
		services.Register(x.Controller, hSum, services.Stages[sumRequest, sumReply]{
			Pre: func(_ *services.Context, req *sumRequest, _ *sumReply) error {
				if req.B > 0 && req.A > math.MaxInt64-req.B || req.B < 0 && req.A < math.MinInt64-req.B {
					return services.Errorf(engine.CodeBadBody, "the sum is out of range")
				}
				return nil
			},
			Handle: func(_ *services.Context, req *sumRequest, res *sumReply) error {
				res.Sum = req.A
				return nil
			},
			Last: func(_ *services.Context, req *sumRequest, res *sumReply) error {
				res.Sum += req.B
				return nil
			},
		}, services.Name("sum")),
		services.Register(x.Controller, hInline, services.Stages[sumRequest, sumReply]{
			Handle: func(ctx *services.Context, req *sumRequest, res *sumReply) error {
				first, err := services.Inline[sumRequest, sumReply](ctx, hSum, *req)
				if err == nil {
					*res, err = services.Inline[sumRequest, sumReply](ctx, hSum, sumRequest{A: first.Sum})
				}
				return err
			},
		}, services.Name("sum inline")))
}

type laterRequest struct {
	Seconds float64    `json:"seconds"`
	Data    rawMessage `json:"data"`
}

type laterReply struct {
	Accepted bool `json:"accepted"`
}

type laterEvent struct {
	Data   rawMessage `json:"data"`
	LateMS float64    `json:"late_ms"`
}

// eventFrame is the most bytes that an event's frame has in addition to its data: Main, Sub and
// Seq, the two keys, and a number.
const eventFrame = 80

// delays registers 4/5, and 4/6, which 4/5 runs later.
func (x *Services) delays() error {
	return errors.Join(
		services.Register(x.Controller, hLater, services.Stages[laterRequest, laterReply]{
			Handle: func(ctx *services.Context, req *laterRequest, res *laterReply) error {
				if most := ctx.Session().Server().Config().MaxFrame - eventFrame; len(req.Data) > most {
					return services.Errorf(engine.CodeLimit, "data of %d bytes; the event would not fit a frame", len(req.Data))
				}
				_, err := services.After(ctx, req.Seconds, hPush, req.Data)
				res.Accepted = true
				return err
			},
		}, services.Name("later")),
		services.Register(x.Controller, hPush, services.Stages[rawMessage, laterEvent]{
			Handle: func(ctx *services.Context, req *rawMessage, res *laterEvent) error {
				late, _ := ctx.Late()
				*res = laterEvent{*req, math.Round(float64(late.Microseconds())) / 1000}
				return nil
			},
		}, services.Name("event"), services.Internal()))
}

// keySet counts the different keys that a session has set, by their hashes. Used in the session's
// order only.
type keySet struct{ seen map[uint64]struct{} }

// maySet reports an error if the session may not set another key; otherwise it remembers the key.
func (x *Services) maySet(s *engine.Session, key string) error {
	v, ok := x.keys.Load(s)
	if !ok {
		v, _ = x.keys.LoadOrStore(s, &keySet{seen: map[uint64]struct{}{}})
	}
	k := v.(*keySet)
	h := hashKey(key)
	if _, ok := k.seen[h]; ok {
		return nil
	}
	if len(k.seen) >= x.cfg.MaxKeys {
		return &services.Error{Code: engine.CodeLimit, Text: fmt.Sprintf("a session may set %d keys", x.cfg.MaxKeys)}
	}
	k.seen[h] = struct{}{}
	return nil
}
