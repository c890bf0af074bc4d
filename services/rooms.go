package services

import (
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"millrace/engine"
	"millrace/internal/seldom"
	"millrace/timerwheel"
)

// Errors of Rooms.
var (
	// ErrTooManyRooms: MaxRooms keys have a room already. Nothing was made, and the message
	// was not taken.
	ErrTooManyRooms = errors.New("services: too many rooms")
	// ErrTooManyMembers: the room has MaxMembers.
	ErrTooManyMembers = errors.New("services: too many members in the room")
	// ErrOtherServer: the members of a room are sessions of one server.
	ErrOtherServer = errors.New("services: the room's members are sessions of another server")
	// ErrRoomsStopped: Stop has been called. It is net.ErrClosed.
	ErrRoomsStopped = fmt.Errorf("services: the rooms are stopped: %w", net.ErrClosed)
	// ErrRoomFailed: the room panicked before the message had its turn. If it was New that
	// failed, the error is what New returned instead.
	ErrRoomFailed = errors.New("services: the room has failed")
)

// RoomsConfig sets up Rooms. Zero means the default that the field's comment names.
type RoomsConfig[K comparable, S any] struct {
	// Pool is what the rooms run on; nil: that of the manager whose Services they are one of.
	Pool *engine.Pool
	// Timers are for Room.Timers and Room.SetTimer; nil: the manager's, or none.
	Timers *timerwheel.Service
	// Name stands in front of the keys, with a slash, in the names of the rooms' groups and
	// in reports; none. It tells the rooms of several Rooms of one server apart.
	Name string

	// New makes a room's state, before its first message. It may block. An error ends the
	// room: messages that wait in it are lost with that error (see PostOr), and the next one
	// makes another. Nil: the state begins as its type's zero value.
	New func(r *Room[K, S]) (S, error)
	// OnIdle is asked when the room has had no message and no member for Idle: it lives on
	// for as long again if that returns true. Nil: it closes. A message that has come before
	// it is closed makes it live on, whatever OnIdle said.
	OnIdle func(r *Room[K, S]) (stay bool)
	// OnClose is the last that runs in a room whose New has succeeded. The members are still
	// there: this is where it says goodbye. why is ReasonIdle, ReasonServerClosed (Close),
	// ReasonPanic, ReasonStopped (Stop). The next room of the key begins when it has
	// returned, so what it writes, blocking, New reads. It may be nil.
	OnClose func(r *Room[K, S], why engine.Reason)
	// OnLeave is called when a member's session has closed or its peer has sent its FIN, and
	// so left the room. Messages that the session's callbacks had still posted may come
	// behind it. It may be nil.
	OnLeave func(r *Room[K, S], s *engine.Session)

	// Idle is how long a room lives without messages and members; 5 min, engine.Off for good.
	// It may take a quarter longer. Timers of the room's own don't count.
	Idle       time.Duration
	MaxRooms   int // 100,000
	MaxMembers int // of one room; 10,000
	MaxTasks   int // messages and functions that wait in one room; the pool's MaxTasks

	Logger *slog.Logger // nil: slog.Default()
}

// RoomsStats is a snapshot of Rooms. Counters only grow.
type RoomsStats struct {
	Rooms  int // keys that have one
	Ending int // rooms that were closed and have not ended

	Made     uint64
	Messages uint64 // taken by Post and PostOr
	Refused  uint64 // ErrTooManyRooms
	Busy     uint64 // messages refused as the room was full
	Lost     uint64 // messages of rooms that failed before their turn
	LivedOn  uint64 // rooms that would have closed as idle, but for a message that came
	Ended    map[engine.Reason]uint64
}

// Rooms are what sessions share, by key: each room is an ordered executor with a state of
// the user's type that only it touches, so the state needs no lock.
//
//	type room = services.Room[string, *game]
//	rooms, err := services.NewRooms(services.RoomsConfig[string, *game]{Pool: pool, New: newGame})
//	err = rooms.Post("tea", func(r *room) { r.State.move(player, x, y) })
//
// A room is made at the first message to its key, and runs messages one at a time, those of
// one goroutine in its order. There is never more than one of a key: when one has closed, the
// next begins after its OnClose has returned, and messages that come meanwhile wait for it.
//
// Rooms are a Service: they start after their pool and timers, and stop before them. A room
// that is alive takes some 400 bytes beside its state, and no goroutine.
type Rooms[K comparable, S any] struct {
	cfg    RoomsConfig[K, S]
	seed   maphash.Seed
	shards [roomShards]roomShard[K, S]

	tick  atomic.Uint32 // of the sweeper, a quarter of Idle each
	state atomic.Uint32 // roomsNew and so on; changed under life
	keys  atomic.Int64  // in all shards
	all   atomic.Int64  // rooms that have not ended
	lives atomic.Uint64 // made so far

	life    sync.Mutex
	quit    chan struct{} // guarded by life; ends the sweeper
	swept   chan struct{} // guarded by life; closed when it has ended
	drained chan struct{} // guarded by life; closed when Stop need not wait any more
	closing atomic.Bool   // Stop has closed every room

	refused, busy, untaken, lost, livedOn atomic.Uint64

	ended [maxReason]atomic.Uint64

	failures seldom.Line // of the log
}

const (
	roomShards = 64
	idleParts  = 4 // ticks of the sweeper in one Idle
	maxReason  = 64
)

// roomShard is a part of the keys.
type roomShard[K comparable, S any] struct {
	mu       sync.Mutex
	rooms    map[K]*Room[K, S] // guarded by mu; the last one made of each key
	messages uint64            // guarded by mu
	_        [40]byte          // a cache line of its own
}

// The state of Rooms.
const (
	roomsNew uint32 = iota
	roomsRunning
	roomsStopping
)

var _ Service = (*Rooms[string, int])(nil)

// NewRooms checks the settings and starts nothing.
func NewRooms[K comparable, S any](cfg RoomsConfig[K, S]) (*Rooms[K, S], error) {
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	def(&cfg.MaxRooms, 100_000)
	def(&cfg.MaxMembers, 10_000)
	switch cfg.Idle {
	case 0:
		cfg.Idle = 5 * time.Minute
	case engine.Off:
		cfg.Idle = 0
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	var errs []error
	want := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf("services: rooms: "+format, args...))
		}
	}
	want(cfg.MaxRooms > 0, "MaxRooms %d: must be at least 1", cfg.MaxRooms)
	want(cfg.MaxMembers > 0, "MaxMembers %d: must be at least 1", cfg.MaxMembers)
	want(cfg.MaxTasks >= 0, "MaxTasks %d: must be at least 1; 0 is the pool's", cfg.MaxTasks)
	want(cfg.Idle == 0 || cfg.Idle >= 10*time.Millisecond, "Idle %v: must be at least 10ms, or engine.Off", cfg.Idle)
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	rs := &Rooms[K, S]{cfg: cfg, seed: maphash.MakeSeed()}
	for i := range rs.shards {
		rs.shards[i].rooms = map[K]*Room[K, S]{}
	}
	return rs, nil
}

// Len is how many keys have a room.
func (rs *Rooms[K, S]) Len() int { return int(rs.keys.Load()) }

// Stats returns a snapshot.
func (rs *Rooms[K, S]) Stats() RoomsStats {
	st := RoomsStats{
		Rooms: rs.Len(), Made: rs.lives.Load(), Refused: rs.refused.Load(), Busy: rs.busy.Load(),
		Lost: rs.lost.Load(), LivedOn: rs.livedOn.Load(), Ended: map[engine.Reason]uint64{},
	}
	closed := 0
	rs.Each(func(r *Room[K, S]) bool {
		if r.Closed() {
			closed++
		}
		return true
	})
	st.Ending = max(int(rs.all.Load())-st.Rooms+closed, 0) // those that have a successor stand in no shard
	for i := range rs.shards {
		sh := &rs.shards[i]
		sh.mu.Lock()
		st.Messages += sh.messages
		sh.mu.Unlock()
	}
	st.Messages -= min(st.Messages, rs.untaken.Load())
	for why := range rs.ended {
		if n := rs.ended[why].Load(); n > 0 {
			st.Ended[engine.Reason(why)] = n
		}
	}
	return st
}

// Each calls fn for every room on the calling goroutine, until it returns false. It is a
// snapshot of each part of the keys: rooms may come and go meanwhile.
func (rs *Rooms[K, S]) Each(fn func(r *Room[K, S]) bool) {
	var list []*Room[K, S]
	for i := range rs.shards {
		sh := &rs.shards[i]
		list = list[:0]
		sh.mu.Lock()
		for _, r := range sh.rooms {
			list = append(list, r)
		}
		sh.mu.Unlock()
		for _, r := range list {
			if !fn(r) {
				return
			}
		}
	}
}

// Find returns the key's room; nil when it has none, or one that was closed.
func (rs *Rooms[K, S]) Find(key K) *Room[K, S] {
	sh := rs.shard(key)
	sh.mu.Lock()
	r := sh.rooms[key]
	sh.mu.Unlock()
	if r == nil || r.Closed() {
		return nil
	}
	return r
}

// Close closes the key's room, if it has one that is not closed, and tells whether it had.
// What it had accepted runs, then OnClose; it returns at once.
func (rs *Rooms[K, S]) Close(key K) bool {
	r := rs.Find(key)
	return r != nil && r.Close() == nil
}

func (rs *Rooms[K, S]) shard(key K) *roomShard[K, S] {
	return &rs.shards[maphash.Comparable(rs.seed, key)%roomShards]
}

// Post has fn called in the key's room, which is made if there is none. It never blocks:
// engine.ErrTasksFull and engine.ErrMemory, both engine.ErrBusy, when too much waits,
// ErrTooManyRooms, ErrRoomsStopped, engine.ErrNotRunning before Start. fn runs once, unless
// the room fails before: New returns an error or panics, or a message in front of it panics.
// Such messages are counted in Stats.Lost, and the log says how many; PostOr tells of each.
func (rs *Rooms[K, S]) Post(key K, fn func(r *Room[K, S])) error { return rs.post(key, fn) }

// PostOr is Post for who wants to know: when it has returned nil either fn or lost is called,
// once. lost, on a worker too, is given ErrRoomFailed or the error of New.
func (rs *Rooms[K, S]) PostOr(key K, fn func(r *Room[K, S]), lost func(error)) error {
	return rs.post(key, message[K, S]{fn, lost})
}

func (rs *Rooms[K, S]) post(key K, msg any) error {
	sh := rs.shard(key)
	for {
		sh.mu.Lock()
		r := sh.rooms[key]
		if r == nil || r.Closed() || rs.state.Load() != roomsRunning {
			var err error
			if r, err = rs.newRoom(sh, key, r); err != nil {
				sh.mu.Unlock()
				return err
			}
		}
		sh.messages++
		sh.mu.Unlock()
		err := r.post(msg)
		if err == nil {
			return nil
		}
		rs.untaken.Add(1)
		if !errors.Is(err, net.ErrClosed) || !r.Closed() {
			return err // it is full, or the pool has stopped
		}
		// It has closed since: the message is the next one's.
	}
}

// newRoom makes the key's next room, behind the one that has closed if there is one. sh is
// locked.
func (rs *Rooms[K, S]) newRoom(sh *roomShard[K, S], key K, before *Room[K, S]) (*Room[K, S], error) {
	switch rs.state.Load() { // under the lock, so that Stop sees what is made here
	case roomsNew:
		return nil, engine.ErrNotRunning
	case roomsStopping:
		return nil, ErrRoomsStopped
	}
	r, err := rs.make(key, before)
	if err == nil {
		sh.rooms[key] = r
	}
	return r, err
}

// make makes a room of the key, which follows before if that is not nil. The shard is locked.
func (rs *Rooms[K, S]) make(key K, before *Room[K, S]) (*Room[K, S], error) {
	if before == nil && !addBelow(&rs.keys, int64(rs.cfg.MaxRooms)) {
		rs.refused.Add(1)
		return nil, fmt.Errorf("%w: %d", ErrTooManyRooms, rs.cfg.MaxRooms)
	}
	// Those that have closed and not ended come on top, as many again at most.
	if !addBelow(&rs.all, 2*int64(rs.cfg.MaxRooms)) {
		if before == nil {
			rs.keys.Add(-1)
		}
		rs.refused.Add(1)
		return nil, fmt.Errorf("%w: as many are still ending", ErrTooManyRooms)
	}
	r := &Room[K, S]{rooms: rs, key: key, life: rs.lives.Add(1)}
	r.seen.Store(rs.tick.Load())
	cfg := engine.StrandConfig{Name: rs.name(key), MaxTasks: rs.cfg.MaxTasks, OnClose: r.end, OnMessage: r.handle}
	if before == nil {
		r.strand = rs.cfg.Pool.StrandWith(cfg)
	} else {
		r.strand = before.strand.Next(cfg)
	}
	return r, nil
}

// addBelow adds 1 to n if that does not make it more than most.
func addBelow(n *atomic.Int64, most int64) bool {
	if n.Add(1) > most {
		n.Add(-1)
		return false
	}
	return true
}

// name is what the room of a key is called, and its group.
func (rs *Rooms[K, S]) name(key K) string {
	text, ok := any(key).(string)
	if !ok {
		text = fmt.Sprint(key)
	}
	if rs.cfg.Name == "" {
		return text
	}
	return rs.cfg.Name + "/" + text
}
