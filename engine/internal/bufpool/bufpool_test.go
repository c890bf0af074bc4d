package bufpool

import (
	"bytes"
	"sync"
	"testing"
)

// Whatever is asked for there is room for it, and Room and Held say how much.
func TestGetHasRoom(t *testing.T) {
	for _, n := range []int{0, 1, 511, 512, 513, 1000, 4096, 4097, 65_535, 65_536, 65_537, 1 << 20, 1<<21 - 1, 1 << 21, 1<<21 + 1, 5 << 20} {
		b := Get(n)
		if len(b.B) != 0 || cap(b.B) < n || cap(b.B) != Room(n) || b.Held() != Header+Room(n) || b.Spare() != cap(b.B) {
			t.Errorf("Get(%d): len %d, cap %d, Room %d, Held %d, Spare %d", n, len(b.B), cap(b.B), Room(n), b.Held(), b.Spare())
		}
		if n > 512 && n <= 1<<maxClass && Room(n) >= 2*n {
			t.Errorf("%d bytes for %d", Room(n), n)
		}
		b.Free()
	}
}

// A Buf that comes back from the pool is like a new one.
func TestFreedBufsComeBackClean(t *testing.T) {
	for range 100 {
		for _, b := range []*Buf{Get(100), Get(5000), Empty(3)} {
			if b.Next != nil || b.Fn != nil || b.Off != 0 || b.Flag || len(b.B) != 0 || b.Tag != 0 && b.Tag != 3 {
				t.Fatalf("not clean: %+v", b)
			}
			b.Next, b.Fn, b.Off, b.Tag, b.Flag = &Buf{}, func() {}, 1, 7, true
			if cap(b.B) > 0 {
				b.B = append(b.B, "left over"...)
			}
			b.Free()
		}
	}
	if e := Empty(5); e.Tag != 5 || cap(e.B) != 0 || e.Held() != Header {
		t.Errorf("Empty(5): tag %d, room for %d, holds %d", e.Tag, cap(e.B), e.Held())
	}
}

// Move and Grow keep the bytes and how many are done with, and two that are in use never
// share memory.
func TestMoveKeepsBytes(t *testing.T) {
	b := Get(10)
	want := []byte("0123456789")
	b.B = append(b.B, want...)
	b.Off = 4
	for _, n := range []int{600, 5000, 70_000, 3 << 20} {
		if b = b.Move(n); cap(b.B) < n || !bytes.Equal(b.B, want) || b.Off != 4 || string(b.Rest()) != "456789" {
			t.Fatalf("Move(%d): %q, off %d, cap %d", n, b.B, b.Off, cap(b.B))
		}
		other := Get(10)
		other.B = append(other.B, "xxxxxxxxxx"...)
		if !bytes.Equal(b.B, want) {
			t.Fatalf("Move(%d): the memory was another's", n)
		}
		other.Free()
	}
	small := Get(1)
	if g := small.Grow(512); g != small {
		t.Error("Grow moved what had room")
	}
	small.B = append(small.B, want...)
	if g := small.Grow(512); g == small || g.Spare() < 512 || !bytes.Equal(g.B, want) {
		t.Errorf("Grow(512): %d spare, %q", g.Spare(), g.B)
	}
}

// A shared Buf is freed by whoever releases it last, and by nobody else.
func TestLastReleaseFrees(t *testing.T) {
	for range 200 {
		b := Get(100)
		b.Share()
		b.B = append(b.B, "shared"...)
		const readers = 8
		last := make(chan int, readers+1)
		var wg sync.WaitGroup
		for range readers {
			b.Retain()
			wg.Add(1)
			go func() {
				defer wg.Done()
				if string(b.B) != "shared" {
					t.Error("freed while it was referred to")
				}
				if held, ok := b.Release(); ok {
					last <- held
				}
			}()
		}
		if held, ok := b.Release(); ok {
			last <- held
		}
		wg.Wait()
		if len(last) != 1 {
			t.Fatalf("%d releases were the last", len(last))
		}
		if held := <-last; held != Header+512 {
			t.Fatalf("held %d", held)
		}
	}
}
