package engine

import (
	"math/bits"
	"sync"
	"sync/atomic"
)

// buf is a pooled piece of memory, and at the same time one item of a strand or one
// link of an outbox's unsent chain.
type buf struct {
	next  *buf
	b     []byte
	fn    func() // of itemFunc
	off   int    // bytes of b already handled or sent
	cast  int    // of the unsent bytes of b, at most so many that nobody asked for
	class int8   // size class, or -1: not pooled
	kind  uint8
	late  bool         // frames read when a draining server refused them already
	refs  atomic.Int32 // of a group's frame: outboxes that still have to write it, and its sender
}

// Kinds of strand items.
const (
	itemData   = iota // whole frames in b
	itemAccept        // OnSocketAccept
	itemFunc          // a submitted function
	itemFin           // the peer's FIN
	itemBad           // a bad header: b is the ERROR's text
)

const (
	minClass = 9  // 512 B
	maxClass = 21 // 2 MiB, a stage at the default MaxOutbound; what is larger is left to the garbage collector
)

var bufs [maxClass + 1]sync.Pool // by class; of *buf with cap(b) == 1<<class

var bare = sync.Pool{New: func() any { return &buf{class: -1} }} // bufs without bytes

// getBuf returns an empty buf with room for n bytes.
func getBuf(n int) *buf {
	class := max(bits.Len(uint(n-1)), minClass)
	if n <= 0 {
		class = minClass
	}
	if class > maxClass {
		return &buf{b: make([]byte, 0, n), class: -1}
	}
	if v := bufs[class].Get(); v != nil {
		return v.(*buf)
	}
	return &buf{b: make([]byte, 0, 1<<class), class: int8(class)}
}

// getItem returns a buf without bytes.
func getItem(kind uint8) *buf {
	it := bare.Get().(*buf)
	it.kind = kind
	return it
}

// free gives the buf back. Nothing may use it or its bytes afterwards.
func (b *buf) free() {
	b.next, b.fn, b.off, b.cast, b.kind, b.late = nil, nil, 0, 0, itemData, false
	if b.class >= 0 {
		b.b = b.b[:0]
		bufs[b.class].Put(b)
		return
	}
	if b.b == nil {
		bare.Put(b)
	}
}

// drop gives one reference to a group's frame back.
func (b *buf) drop() {
	if b.refs.Add(-1) == 0 {
		b.free()
	}
}

// room returns b, or a larger buf with b's bytes that replaces it, with room for n more.
func (b *buf) room(n int) *buf {
	if cap(b.b)-len(b.b) >= n {
		return b
	}
	g := getBuf(max(2*cap(b.b), len(b.b)+n))
	g.b = append(g.b, b.b...)
	g.cast = b.cast
	b.free()
	return g
}

// rest is what has not been handled or sent.
func (b *buf) rest() []byte { return b.b[b.off:] }
