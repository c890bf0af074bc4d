package dbasync

// kind is what one entry of a lane's FIFO waits for.
type kind uint8

const (
	kRollback kind = iota // CommandComplete of rollback
	kBegin                // CommandComplete of begin
	kChain                // a query, then its commit [and chain]
	kGroup                // a query of a shared READ ONLY transaction
	kCommit               // CommandComplete of the commit of that transaction
	kStrict               // a query, then ReadyForQuery
	kSync                 // ReadyForQuery
	kDescribe             // ParseComplete, its two descriptions, ReadyForQuery
)

func (k kind) String() string {
	return [...]string{"rollback", "begin", "chain", "group", "commit", "strict", "sync", "describe"}[k]
}

// entry is one expected answer of the server.
type entry struct {
	kind   kind
	unsent bool     // no byte of its burst was written
	req    *request // kChain, kGroup, kStrict
	shape  *shape   // kDescribe
}

// fifo is a ring of entries. The reader moves head, the writer tail, both under lane.mu; entries
// between them do not change, so the reader may walk a view without the lock.
type fifo struct {
	buf        []entry // length a power of two
	head, tail uint64
}

func (f *fifo) at(i uint64) entry { return f.buf[i&uint64(len(f.buf)-1)] }

func (f *fifo) push(es []entry) {
	need := int(f.tail-f.head) + len(es)
	if need > len(f.buf) {
		f.grow(need)
	}
	for _, e := range es {
		f.buf[f.tail&uint64(len(f.buf)-1)] = e
		f.tail++
	}
}

// grow makes a larger ring; a reader's view keeps the old one. Config.Window limits its size: a
// query has one entry, a burst up to five more.
func (f *fifo) grow(need int) {
	size := max(64, len(f.buf))
	for size < need {
		size *= 2
	}
	buf := make([]entry, size)
	for i := f.head; i != f.tail; i++ {
		buf[i&uint64(size-1)] = f.at(i)
	}
	f.buf = buf
}

// popTo drops the entries before head and their references to requests.
func (f *fifo) popTo(head uint64) {
	for ; f.head != head; f.head++ {
		f.buf[f.head&uint64(len(f.buf)-1)] = entry{}
	}
}

// takeAll empties the ring.
func (f *fifo) takeAll() []entry {
	var out []entry
	for i := f.head; i != f.tail; i++ {
		out = append(out, f.at(i))
	}
	f.popTo(f.tail)
	return out
}
