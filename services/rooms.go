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
	// ErrTooManyRooms: MaxRooms keys already have a room. No room was created, and the message was
	// not accepted.
	ErrTooManyRooms = errors.New("services: too many rooms")
	// ErrTooManyMembers: the room has MaxMembers members.
	ErrTooManyMembers = errors.New("services: too many members in the room")
	// ErrOtherServer: all members of a room must be sessions of one server.
	ErrOtherServer = errors.New("services: the room's members are sessions of another server")
	// ErrRoomsStopped: Stop has been called. It is net.ErrClosed too.
	ErrRoomsStopped = fmt.Errorf("services: the rooms are stopped: %w", net.ErrClosed)
	// ErrRoomFailed: the room panicked before the message ran. If New failed, the error of New is
	// reported instead.
	ErrRoomFailed = errors.New("services: the room has failed")
)

// RoomsConfig configures Rooms. Zero means the default that the field's comment names.
type RoomsConfig[K comparable, S any] struct {
	// Pool runs the rooms; nil means the pool of the manager that has the Rooms as one of its
	// Services.
	Pool *engine.Pool
	// Timers are for Room.Timers and Room.SetTimer; nil means the manager's, if any.
	Timers *timerwheel.Service
	// Name and a slash are put before the key in the names of the rooms' groups and in reports. It
	// distinguishes several Rooms of one server. The default is no prefix.
	Name string

	// New makes a room's state, before its first message. It may block. An error ends the room:
	// messages waiting in it are lost with that error (see PostOr), and the next message creates
	// another room. If nil, the state is the zero value of its type.
	New func(r *Room[K, S]) (S, error)
	// OnIdle is called when the room has had no message and no member for Idle: if it returns true
	// the room is kept for as long again. If nil, the room closes. A message that arrives before
	// the room is closed keeps it open, whatever OnIdle returned.
	OnIdle func(r *Room[K, S]) (stay bool)
	// OnClose is the last function that runs in a room whose New has succeeded. The members are
	// still there, so it can send them a last message. why is ReasonIdle, ReasonServerClosed
	// (Close), ReasonPanic or ReasonStopped (Stop). The next room of the key begins after it has
	// returned, so New can read what OnClose has written, blocking. It may be nil.
	OnClose func(r *Room[K, S], why engine.Reason)
	// OnLeave is called when a member's session has closed or its peer has sent its FIN, and it has
	// so left the room. Messages that the session's callbacks had posted may arrive after it. It
	// may be nil.
	OnLeave func(r *Room[K, S], s *engine.Session)

	// Idle is how long a room is kept without messages and members; default 5 min, engine.Off for
	// no limit. It may take a quarter longer. Firings of the room's own timers don't count as
	// messages.
	Idle       time.Duration
	MaxRooms   int // 100,000
	MaxMembers int // in one room; 10,000
	MaxTasks   int // messages and functions waiting in one room; the pool's MaxTasks

	Logger *slog.Logger // nil: slog.Default()
}

// RoomsStats is a snapshot of the statistics of Rooms. Counters only grow.
type RoomsStats struct {
	Rooms  int // keys with an open room
	Ending int // closed rooms that have not ended

	Made     uint64
	Messages uint64 // accepted by Post and PostOr
	Refused  uint64 // ErrTooManyRooms
	Busy     uint64 // messages refused because the room was full
	Lost     uint64 // messages in rooms that failed before they ran
	LivedOn  uint64 // idle rooms kept open by a message that arrived before the close
	Ended    map[engine.Reason]uint64
}

// Rooms are objects that sessions share, by key: each room runs functions in order and has a state
// of the user's type that only these functions use, so the state needs no lock.
//
//	type room = services.Room[string, *game]
//	rooms, err := services.NewRooms(services.RoomsConfig[string, *game]{Pool: pool, New: newGame})
//	err = rooms.Post("tea", func(r *room) { r.State.move(player, x, y) })
//
// A room is created by the first message to its key, and runs messages one at a time, those of one
// goroutine in order. There is never more than one room of a key: when one has closed, the next
// begins after its OnClose has returned, and messages that arrive meanwhile wait for it.
//
// Rooms is a Service: it starts after its pool and timers, and stops before them. An open room
// takes about 400 bytes in addition to its state, and no goroutine.
type Rooms[K comparable, S any] struct {
	cfg    RoomsConfig[K, S]
	seed   maphash.Seed
	shards [roomShards]roomShard[K, S]

	tick  atomic.Uint32 // of the sweeper; one is a quarter of Idle
	state atomic.Uint32 // roomsNew and so on; changed under life
	keys  atomic.Int64  // keys in all shards
	all   atomic.Int64  // rooms that have not ended
	lives atomic.Uint64 // rooms created so far

	life    sync.Mutex
	quit    chan struct{} // guarded by life; ends the sweeper
	swept   chan struct{} // guarded by life; closed when it has ended
	drained chan struct{} // guarded by life; closed when Stop need not wait any more
	closing atomic.Bool   // set when Stop has closed every room

	refused, busy, untaken, lost, livedOn atomic.Uint64

	ended [maxReason]atomic.Uint64

	failures seldom.Line // limits log lines
}

const (
	roomShards  = 64
	recentRooms = 16 // in each shard
	idleParts   = 4  // ticks of the sweeper in one Idle
	maxReason   = 64
)

// roomShard holds a part of the keys.
type roomShard[K comparable, S any] struct {
	mu       sync.Mutex
	rooms    map[K]*Room[K, S] // guarded by mu; the last one created for each key
	messages atomic.Uint64
	_        [40]byte // fills a cache line

	// recent has rooms that had a message lately, by hash of their keys: most messages find theirs
	// here, without the lock. Written under mu, read by anyone; none of them has ended.
	recent [recentRooms]atomic.Pointer[Room[K, S]]
}

// The states of Rooms.
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

// Len returns the number of keys with a room.
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
	st.Ending = max(int(rs.all.Load())-st.Rooms+closed, 0) // closed rooms that have a successor are in no shard
	for i := range rs.shards {
		st.Messages += rs.shards[i].messages.Load()
	}
	st.Messages -= min(st.Messages, rs.untaken.Load())
	for why := range rs.ended {
		if n := rs.ended[why].Load(); n > 0 {
			st.Ended[engine.Reason(why)] = n
		}
	}
	return st
}

// Each calls fn for every room on the calling goroutine, until it returns false. It takes a
// snapshot of one shard of keys at a time: rooms may be created and closed meanwhile.
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

// Find returns the key's room; nil if it has none, or only a closed one.
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

// Close closes the key's room and reports whether there was an open one. It returns at once;
// everything that the room had accepted runs, then OnClose.
func (rs *Rooms[K, S]) Close(key K) bool {
	r := rs.Find(key)
	return r != nil && r.Close() == nil
}

func (rs *Rooms[K, S]) shard(key K) *roomShard[K, S] {
	sh, _ := rs.place(key)
	return sh
}

// place returns the key's shard, and the place of its room among the recent ones.
func (rs *Rooms[K, S]) place(key K) (sh *roomShard[K, S], recent *atomic.Pointer[Room[K, S]]) {
	h := maphash.Comparable(rs.seed, key)
	sh = &rs.shards[h%roomShards]
	return sh, &sh.recent[h/roomShards%recentRooms]
}

// Post arranges for fn to be called in the key's room, which is created if there is none. It never
// blocks: it returns engine.ErrTasksFull or engine.ErrMemory, both engine.ErrBusy, when too much is
// waiting, ErrTooManyRooms, ErrRoomsStopped, or engine.ErrNotRunning before Start. fn runs once,
// unless the room fails before: New returns an error or panics, or an earlier message panics. Such
// messages are counted in Stats.Lost and logged; PostOr reports each.
func (rs *Rooms[K, S]) Post(key K, fn func(r *Room[K, S])) error { return rs.post(key, fn) }

// PostOr is like Post and reports the outcome: when it has returned nil, either fn or lost is
// called, once. lost, which also runs on a worker, gets ErrRoomFailed or the error of New.
func (rs *Rooms[K, S]) PostOr(key K, fn func(r *Room[K, S]), lost func(error)) error {
	return rs.post(key, message[K, S]{fn, lost})
}

func (rs *Rooms[K, S]) post(key K, msg any) error {
	sh, recent := rs.place(key)
	for {
		r := recent.Load()
		if r == nil || r.key != key || !rs.open(r) {
			var err error
			if r, err = rs.room(sh, recent, key); err != nil {
				return err
			}
		}
		sh.messages.Add(1)
		err := r.post(msg)
		if err == nil {
			return nil
		}
		rs.untaken.Add(1)
		if !errors.Is(err, net.ErrClosed) || !r.Closed() {
			return err // the room is full, or the pool has stopped
		}
		// It has closed meanwhile: the message goes to the next room.
	}
}

// open reports whether a message may be posted to r.
func (rs *Rooms[K, S]) open(r *Room[K, S]) bool {
	return !r.Closed() && rs.state.Load() == roomsRunning
}

// room returns the key's open room, which it creates if there is none, and makes it a recent one.
func (rs *Rooms[K, S]) room(sh *roomShard[K, S], recent *atomic.Pointer[Room[K, S]], key K) (*Room[K, S], error) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	r := sh.rooms[key]
	if r == nil || !rs.open(r) {
		var err error
		if r, err = rs.newRoom(sh, key, r); err != nil {
			return nil, err
		}
	}
	recent.Store(r)
	return r, nil
}

// newRoom creates the key's next room, to run after the closed one if there is one. sh is locked.
func (rs *Rooms[K, S]) newRoom(sh *roomShard[K, S], key K, before *Room[K, S]) (*Room[K, S], error) {
	switch rs.state.Load() { // under the lock, so that Stop sees rooms created here
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

// make creates a room of the key, which follows before if that is not nil. The shard is locked.
func (rs *Rooms[K, S]) make(key K, before *Room[K, S]) (*Room[K, S], error) {
	if before == nil && !addBelow(&rs.keys, int64(rs.cfg.MaxRooms)) {
		rs.refused.Add(1)
		return nil, fmt.Errorf("%w: %d", ErrTooManyRooms, rs.cfg.MaxRooms)
	}
	// Closed rooms that have not ended are allowed in addition, at most as many again.
	if !addBelow(&rs.all, 2*int64(rs.cfg.MaxRooms)) {
		if before == nil {
			rs.keys.Add(-1)
		}
		rs.refused.Add(1)
		return nil, fmt.Errorf("%w: too many are still closing", ErrTooManyRooms)
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

// addBelow adds 1 to n unless the result would exceed most.
func addBelow(n *atomic.Int64, most int64) bool {
	if n.Add(1) > most {
		n.Add(-1)
		return false
	}
	return true
}

// name returns the name of a key's room and of its group.
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
