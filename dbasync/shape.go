package dbasync

import (
	"maps"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgconn"
)

// shape is what is known about one SQL text; all lanes share it.
type shape struct {
	sql   string
	name  string // of the prepared statement, on every lane
	class class
	word  string // its first keyword
	ddl   bool   // may alter what other statements use

	desc atomic.Pointer[description] // nil until a server has described it
	tag  atomic.Pointer[string]      // the command tag seen last

	// lanes has bit i when lane i is known to have it prepared. Set by lane i's
	// reader, cleared when the lane or the shape goes; under shapes.mu.
	lanes atomic.Uint64

	slow    atomic.Bool  // learned: runs on the slow connections
	suspect atomic.Bool  // was in a slow burst: to be measured alone
	quick   atomic.Int32 // quick runs in a row while slow

	used atomic.Int64 // tick of the last use

	evicted atomic.Bool  // set under shapes.mu
	asked   bool         // on queue.describes or being described; guarded by queue.mu
	sent    uint64       // queue.seq when a lane took it to describe; guarded by queue.mu
	last    *description // before a change of plan: the parameters' types stay; guarded by queue.mu
}

// description is the content of ParameterDescription and RowDescription. It is immutable.
type description struct {
	oids      []uint32
	fields    []pgconn.FieldDescription // Format set as requested in Bind
	formatAll int16                     // the format requested for all columns at once, -1: each has its own
	tail      []byte                    // the end of the Bind message and the Execute message
	// tailLimited is tail with a limit of rows, for statements that only read: any other would be
	// half done when it stops.
	tailLimited []byte
}

// shapes is the cache of shapes: SQL text to shape, at most limit.
type shapes struct {
	limit int
	encs  *encoders
	tick  atomic.Int64

	// known is a copy of bySQL, not the latest, that is read without a lock; what has been
	// evicted since says so itself.
	known atomic.Pointer[map[string]*shape]

	mu      sync.Mutex
	bySQL   map[string]*shape
	misses  int // uses of what known lacks, since it was made
	nextID  int
	unnamed bool // all shapes are the unnamed statement, parsed for each use
	// closes[i] are names lane i has to close, added when a shape is evicted.
	closes [64][]string
	dirty  [64]atomic.Bool // closes[i] is not empty
}

func newShapes(limit int, encs *encoders) *shapes {
	c := &shapes{limit: limit, encs: encs, bySQL: make(map[string]*shape)}
	c.known.Store(&map[string]*shape{})
	return c
}

// get returns the shape of sql, creating it if needed.
func (c *shapes) get(sql string) *shape {
	s := (*c.known.Load())[sql]
	if s == nil || s.evicted.Load() {
		s = c.add(sql)
	}
	if now := c.tick.Load(); s.used.Load() != now {
		s.used.Store(now)
	}
	return s
}

func (c *shapes) add(sql string) *shape {
	c.mu.Lock()
	s := c.bySQL[sql]
	if s != nil {
		c.missed()
	}
	c.mu.Unlock()
	if s != nil {
		return s
	}
	cl, word := classify(sql)
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.bySQL[sql]; s != nil {
		return s
	}
	if len(c.bySQL) >= c.limit {
		c.evictOldest()
	}
	c.nextID++
	s = &shape{sql: sql, name: c.name(), class: cl, word: word, ddl: altersTables(word)}
	s.used.Store(c.tick.Add(1))
	c.bySQL[sql] = s
	return s
}

// missed replaces known by a new copy when enough misses justify its cost: each miss takes a lock
// that all callers share. Caller holds mu.
func (c *shapes) missed() {
	if c.misses++; c.misses < len(c.bySQL) {
		return
	}
	c.misses = 0
	known := maps.Clone(c.bySQL)
	c.known.Store(&known)
}

// name returns the name of the next shape. Caller holds mu.
func (c *shapes) name() string {
	if c.unnamed {
		return ""
	}
	return shapeName(c.nextID)
}

// shapeName returns a short name: it is in every Bind.
func shapeName(id int) string {
	const digits = "0123456789abcdefghijklmnopqrstuvwxyz"
	b := []byte{'s'}
	for {
		b = append(b, digits[id%36])
		if id /= 36; id == 0 {
			return string(b)
		}
	}
}

// evictOldest evicts the least recently used shape. Caller holds mu.
func (c *shapes) evictOldest() {
	var old *shape
	for _, s := range c.bySQL {
		if old == nil || s.used.Load() < old.used.Load() {
			old = s
		}
	}
	c.evict(old)
}

// evict removes s; lanes that have it prepared close it with their next burst. Caller holds mu.
func (c *shapes) evict(s *shape) {
	if s.evicted.Load() {
		return
	}
	s.evicted.Store(true)
	if c.bySQL[s.sql] == s {
		delete(c.bySQL, s.sql)
	}
	for bits, i := s.lanes.Swap(0), 0; bits != 0; bits, i = bits>>1, i+1 {
		if bits&1 != 0 {
			c.closeOn(i, s.name)
		}
	}
}

// closeOn makes lane i close name. Caller holds mu.
func (c *shapes) closeOn(i int, name string) {
	c.closes[i] = append(c.closes[i], name)
	c.dirty[i].Store(true)
}

// forget evicts s; the next use of its text creates a new shape.
func (c *shapes) forget(s *shape) {
	c.mu.Lock()
	c.evict(s)
	c.mu.Unlock()
}

// renew discards the description of s: the next use of its text has it described again, with its
// parameters' types. Queries that hold s already keep using it. What was measured of its duration
// remains. It returns the text's new shape, which is not described yet unless another goroutine was
// quicker.
func (c *shapes) renew(s *shape) *shape {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := c.bySQL[s.sql]; s.evicted.Load() && n != nil {
		return n
	}
	c.evict(s)
	if len(c.bySQL) >= c.limit {
		c.evictOldest()
	}
	c.nextID++
	n := &shape{sql: s.sql, name: c.name(), class: s.class, word: s.word, ddl: s.ddl}
	n.slow.Store(s.slow.Load())
	n.suspect.Store(s.suspect.Load())
	n.used.Store(c.tick.Add(1))
	c.bySQL[n.sql] = n
	return n
}

// prepared records that lane i's server has parsed s.
func (c *shapes) prepared(s *shape, i int) {
	if c.unnamed {
		return
	}
	c.mu.Lock()
	if s.evicted.Load() {
		c.closeOn(i, s.name)
	} else {
		s.lanes.Or(1 << i)
	}
	c.mu.Unlock()
}

// unprepared records that lane i's server does not have s.
func (c *shapes) unprepared(s *shape, i int) {
	c.mu.Lock()
	s.lanes.And(^(uint64(1) << i))
	c.mu.Unlock()
}

// laneGone forgets what lane i had prepared, when it went down.
func (c *shapes) laneGone(i int) {
	c.mu.Lock()
	for _, s := range c.bySQL {
		s.lanes.And(^(uint64(1) << i))
	}
	c.closes[i] = nil
	c.dirty[i].Store(false)
	c.mu.Unlock()
}

// takeCloses returns the names that lane i has to close, and clears them.
func (c *shapes) takeCloses(i int) []string {
	if !c.dirty[i].Load() {
		return nil
	}
	c.mu.Lock()
	names := c.closes[i]
	c.closes[i] = nil
	c.dirty[i].Store(false)
	c.mu.Unlock()
	return names
}

func (c *shapes) len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.bySQL)
}

// tagOf returns b as a string, without an allocation if it is the tag seen last.
func (s *shape) tagOf(b []byte) string {
	if t := s.tag.Load(); t != nil && *t == string(b) {
		return *t
	}
	t := string(b)
	s.tag.Store(&t)
	return t
}

// changed: no lane's prepared statement of s can be used any more.
func (c *shapes) changed(s *shape) {
	c.mu.Lock()
	s.lanes.Store(0)
	c.mu.Unlock()
}
