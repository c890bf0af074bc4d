// Package bufpool is a pool of byte buffers in size classes.
package bufpool

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"unsafe"
)

// Buf is a pooled buffer that can be linked into a list. Its exported fields are for its owner's use.
type Buf struct {
	Next *Buf
	B    []byte
	Fn   func()
	Arg  any
	Off  int   // bytes at the start of B that are processed
	At   int64 // when B was received
	Tag  uint8 // the kind of its content
	Flag bool

	class int8         // size class, or unpooled
	refs  atomic.Int32 // of a shared Buf
}

const (
	least    = 6  // 64 B, of GetSmall
	minClass = 9  // 512 B
	maxClass = 21 // 2 MiB; larger ones are not pooled
	unpooled = -1
)

// Header is the size of a Buf without its bytes.
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

// GetSmall is Get for content that does not grow: it also uses size classes below 512 bytes, down to 64.
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

// Room returns the capacity of the Buf that Get(n) returns, in bytes.
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

// Free returns the Buf to the pool. Nothing may use it or its bytes afterwards.
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

// Held returns the Buf's memory in bytes.
func (b *Buf) Held() int { return Header + cap(b.B) }

// Spare returns how many bytes can be appended to B.
func (b *Buf) Spare() int { return cap(b.B) - len(b.B) }

// Rest returns the bytes from Off on.
func (b *Buf) Rest() []byte { return b.B[b.Off:] }

// Grow returns b, or a larger Buf with b's bytes that replaces it, with room for n more.
func (b *Buf) Grow(n int) *Buf {
	if b.Spare() >= n {
		return b
	}
	return b.Move(max(2*cap(b.B), len(b.B)+n))
}

// Move returns another Buf with b's bytes and Off, with room for n bytes in all, and frees b.
func (b *Buf) Move(n int) *Buf {
	g := Get(n)
	g.B = append(g.B, b.B...)
	g.Off = b.Off
	b.Free()
	return g
}

// Share makes b a shared Buf with one reference, the caller's.
func (b *Buf) Share() { b.refs.Store(1) }

// Retain adds a reference to a shared Buf.
func (b *Buf) Retain() { b.refs.Add(1) }

// Release drops one reference. The last one frees the Buf: then last is true, and held the memory that
// it held.
func (b *Buf) Release() (held int, last bool) {
	if b.refs.Add(-1) > 0 {
		return 0, false
	}
	held = b.Held()
	b.Free()
	return held, true
}
