// Package bufpool gives out memory in size classes and takes it back.
package bufpool

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"unsafe"
)

// Buf is a pooled piece of memory that can stand in a list. What is not said otherwise
// is its owner's to use.
type Buf struct {
	Next *Buf
	B    []byte
	Fn   func()
	Arg  any
	Off  int   // bytes of B that are done with
	At   int64 // when it came
	Tag  uint8 // what it is
	Flag bool

	class int8         // size class, or unpooled
	refs  atomic.Int32 // of a shared Buf
}

const (
	least    = 6  // 64 B, of GetSmall
	minClass = 9  // 512 B
	maxClass = 21 // 2 MiB; what is larger is left to the garbage collector
	unpooled = -1
)

// Header is what a Buf costs beside the bytes it has room for.
const Header = int(unsafe.Sizeof(Buf{}))

var classes [maxClass + 1]sync.Pool // of *Buf with cap(B) == 1<<class

var empty = sync.Pool{New: func() any { return &Buf{class: unpooled} }} // Bufs without bytes

// Get returns an empty Buf with room for n bytes.
func Get(n int) *Buf {
	class := minClass
	if n > 1<<minClass {
		class = bits.Len(uint(n - 1))
	}
	if class > maxClass {
		return &Buf{B: make([]byte, 0, n), class: unpooled}
	}
	if v := classes[class].Get(); v != nil {
		return v.(*Buf)
	}
	return &Buf{B: make([]byte, 0, 1<<class), class: int8(class)}
}

// GetSmall is Get for what does not grow: it returns a Buf with no more room than needed,
// down to 64 bytes.
func GetSmall(n int) *Buf {
	if n > 1<<(minClass-1) {
		return Get(n)
	}
	class := max(bits.Len(uint(max(n, 1)-1)), least)
	if v := classes[class].Get(); v != nil {
		return v.(*Buf)
	}
	return &Buf{B: make([]byte, 0, 1<<class), class: int8(class)}
}

// Room is how many bytes the Buf that Get(n) returns has room for.
func Room(n int) int {
	switch {
	case n <= 1<<minClass:
		return 1 << minClass
	case n > 1<<maxClass:
		return n
	}
	return 1 << bits.Len(uint(n-1))
}

// Empty returns a Buf without bytes.
func Empty(tag uint8) *Buf {
	b := empty.Get().(*Buf)
	b.Tag = tag
	return b
}

// Free gives the Buf back. Nothing may use it or its bytes afterwards.
func (b *Buf) Free() {
	b.Next, b.Fn, b.Arg, b.Off, b.Tag, b.Flag = nil, nil, nil, 0, 0, false
	poison(b.B)
	switch {
	case b.class >= 0:
		b.B = b.B[:0]
		classes[b.class].Put(b)
	case b.B == nil:
		empty.Put(b)
	}
}

// Held is how much memory the Buf holds.
func (b *Buf) Held() int { return Header + cap(b.B) }

// Spare is how many more bytes fit behind B.
func (b *Buf) Spare() int { return cap(b.B) - len(b.B) }

// Rest is what is not done with.
func (b *Buf) Rest() []byte { return b.B[b.Off:] }

// Grow returns b, or a larger Buf with b's bytes that replaces it, with room for n more.
func (b *Buf) Grow(n int) *Buf {
	if b.Spare() >= n {
		return b
	}
	return b.Move(max(2*cap(b.B), len(b.B)+n))
}

// Move returns a Buf of b's bytes with room for n in all; b is given back.
func (b *Buf) Move(n int) *Buf {
	g := Get(n)
	g.B = append(g.B, b.B...)
	g.Off = b.Off
	b.Free()
	return g
}

// Share makes b a shared Buf with one reference, its maker's.
func (b *Buf) Share() { b.refs.Store(1) }

// Retain adds a reference to a shared Buf.
func (b *Buf) Retain() { b.refs.Add(1) }

// Release gives one reference back. With the last one the Buf is freed; last tells so,
// and held what it held.
func (b *Buf) Release() (held int, last bool) {
	if b.refs.Add(-1) > 0 {
		return 0, false
	}
	held = b.Held()
	b.Free()
	return held, true
}
