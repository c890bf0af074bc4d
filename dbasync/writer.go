package dbasync

import (
	"net"
)

// Names of the statements every lane has prepared, and their Bind and Execute.
const (
	stmtBegin     = "mb"
	stmtBeginRead = "mr"
	stmtChain     = "mc"
	stmtCommit    = "me"
	stmtRollback  = "mu"
)

var laneStatements = map[string]string{
	stmtBegin:     "begin",
	stmtBeginRead: "begin read only",
	stmtChain:     "commit and chain",
	stmtCommit:    "commit",
	stmtRollback:  "rollback",
}

// wires are the encoded uses of a lane's own statements.
type wires struct{ begin, beginRead, chain, commit, rollback []byte }

// newWires encodes them by name, or with the unnamed statement parsed each time.
func newWires(unnamed bool) wires {
	of := func(name string) []byte {
		if unnamed {
			return appendSimple(appendParse(nil, "", laneStatements[name], nil), "")
		}
		return appendSimple(nil, name)
	}
	return wires{of(stmtBegin), of(stmtBeginRead), of(stmtChain), of(stmtCommit), of(stmtRollback)}
}

// maxDescribes is the maximum number of describes in one burst.
const maxDescribes = 16

// burst is the content of one Write. The writer reuses it.
type burst struct {
	rollback  bool
	bare      bool // begins by preparing the lane's own statements
	describes []*shape
	hints     []*description // per describe: the parameters' types from before
	group     []*request     // share a READ ONLY transaction
	chain     []*request     // one transaction each, one Sync
	strict    []*request     // a Sync each
	keyed     int            // queries with an ordering key

	closes  []string
	buf     []byte
	entries []entry
	syncs   []syncEnd       // where each Sync ends
	parsed  map[*shape]bool // Parse is already in this burst's section
}

// syncEnd is the number of bytes and entries of a burst up to the end of a Sync.
type syncEnd struct{ bytes, entries int }

func (b *burst) queries() int { return len(b.group) + len(b.chain) + len(b.strict) }

func (b *burst) reset() {
	clear(b.group)
	clear(b.chain)
	clear(b.strict)
	clear(b.entries)
	b.rollback, b.bare, b.describes, b.hints, b.closes, b.keyed = false, false, nil, nil, nil, 0
	b.group, b.chain, b.strict, b.entries = b.group[:0], b.chain[:0], b.strict[:0], b.entries[:0]
	if b.parsed == nil {
		b.parsed = make(map[*shape]bool)
	}
	if cap(b.buf) > readBuffer*4 {
		b.buf = nil
	}
	b.buf, b.syncs = b.buf[:0], b.syncs[:0]
}

// write runs on the lane's writer goroutine until the connection breaks.
func (l *lane) write(conn net.Conn) {
	for l.take(&l.burst) {
		l.send(conn)
	}
}

// send writes l.burst. After an error the reader settles what is in flight.
func (l *lane) send(conn net.Conn) {
	b := &l.burst
	b.closes = l.db.shapes.takeCloses(l.index)
	l.encode(b)
	l.mu.Lock()
	if l.fifo.head == l.fifo.tail {
		l.heard.Store(int64(l.db.now())) // no answer was expected before
	}
	from := l.fifo.tail
	l.fifo.push(b.entries)
	l.mu.Unlock()
	l.db.stats.bursts.Add(1)
	if l.db.cfg.PgBouncer != "" {
		l.sendInTurn(conn, from)
		return
	}
	n, err := conn.Write(b.buf)
	if err != nil {
		if n == 0 {
			l.unsent(from)
		}
		conn.Close()
	}
}

// sendInTurn writes l.burst, whose entries begin at from, one Sync at a time, each when all before
// it are answered. A PgBouncer (1.18, for one) that loses its client between the answers to two
// Syncs considers the server connection idle after the first, and its next client receives the
// remaining answers.
func (l *lane) sendInTurn(conn net.Conn, from uint64) {
	var sent syncEnd
	for _, end := range l.burst.syncs {
		if !l.awaitTurn() {
			l.unsent(from + uint64(sent.entries))
			return
		}
		n, err := conn.Write(l.burst.buf[sent.bytes:end.bytes])
		if n > 0 {
			sent = end
		}
		if err != nil {
			l.unsent(from + uint64(sent.entries))
			conn.Close()
			return
		}
	}
}

// awaitTurn returns when every Sync that was sent is answered; false: the connection is broken.
func (l *lane) awaitTurn() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.syncs > 0 && !l.broken {
		l.turn.Wait()
	}
	l.syncs++
	return !l.broken
}

// sendLent writes the burst that push filled, on the caller's goroutine, and returns the lane to
// its writer.
func (l *lane) sendLent() {
	l.mu.Lock()
	conn := l.conn
	l.mu.Unlock()
	l.send(conn)
	l.burst.reset()
	q := &l.db.q
	q.lock()
	l.lent = false
	q.collect()
	if !l.open {
		l.cond.Broadcast()
	} else if l.rollback || q.workFor(l) {
		l.wake()
	}
	q.unlock()
}

// unsent marks the entries of a burst of which no byte was written.
func (l *lane) unsent(from uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := from; i != l.fifo.tail; i++ {
		l.fifo.buf[i&uint64(len(l.fifo.buf)-1)].unsent = true
	}
}

// encode builds the bytes of b and the entries for the expected answers.
func (l *lane) encode(b *burst) {
	clear(b.parsed)
	for _, name := range b.closes {
		b.buf = appendClose(b.buf, name)
	}
	if b.rollback {
		b.add(l.db.wires.rollback, entry{kind: kRollback})
	}
	if b.bare && !l.db.unnamed {
		for name, sql := range laneStatements {
			b.buf = appendParse(appendClose(b.buf, name), name, sql, nil)
		}
		b.sync()
	}
	if b.rollback && len(b.group)+len(b.chain) == 0 {
		// A Sync of its own: a describe or a strict query must not find an aborted transaction, and
		// its error must not be attributed to the chain.
		b.sync()
	}
	l.encodeGroup(b)
	l.encodeChain(b)
	if len(b.group)+len(b.chain) > 0 {
		b.sync()
	}
	for _, r := range b.strict {
		l.query(b, r, kStrict)
		b.buf = appendSync(b.buf)
		b.endSync()
	}
	for i, s := range b.describes {
		var oids []uint32
		if h := b.hints[i]; h != nil {
			oids = h.oids
		}
		b.buf = appendParse(appendClose(b.buf, s.name), s.name, s.sql, oids)
		b.buf = appendSync(appendDescribe(b.buf, s.name))
		b.entries = append(b.entries, entry{kind: kDescribe, shape: s})
		b.endSync()
	}
}

func (b *burst) endSync() {
	b.syncs = append(b.syncs, syncEnd{len(b.buf), len(b.entries)})
}

func (b *burst) add(wire []byte, e entry) {
	b.buf = append(b.buf, wire...)
	b.entries = append(b.entries, e)
}

func (b *burst) sync() {
	b.buf = appendSync(b.buf)
	b.entries = append(b.entries, entry{kind: kSync})
	b.endSync()
	clear(b.parsed) // an earlier error may have skipped a Parse
}

func (l *lane) encodeGroup(b *burst) {
	if len(b.group) == 0 {
		return
	}
	b.add(l.db.wires.beginRead, entry{kind: kBegin})
	for _, r := range b.group {
		l.query(b, r, kGroup)
	}
	b.add(l.db.wires.commit, entry{kind: kCommit})
}

// encodeChain encodes each query in a transaction of its own, all under one Sync.
func (l *lane) encodeChain(b *burst) {
	if len(b.chain) == 0 {
		return
	}
	b.add(l.db.wires.begin, entry{kind: kBegin})
	for i, r := range b.chain {
		l.query(b, r, kChain)
		if i < len(b.chain)-1 {
			b.buf = append(b.buf, l.db.wires.chain...)
		}
	}
	b.buf = append(b.buf, l.db.wires.commit...)
}

// query appends r, with a Parse before it when the lane may not have its statement.
func (l *lane) query(b *burst, r *request, k kind) {
	if s := r.shape; s.lanes.Load()&(1<<l.index) == 0 && (k == kStrict || l.db.unnamed || !b.parsed[s]) {
		b.buf = appendParse(appendClose(b.buf, s.name), s.name, s.sql, r.desc.oids)
		b.buf = appendDescribe(b.buf, s.name) // it may have changed since it was described
		b.parsed[s] = true
	}
	b.buf = append(b.buf, r.msg...)
	b.entries = append(b.entries, entry{kind: k, req: r})
}
