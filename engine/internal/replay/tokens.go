package replay

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"sync"

	"millrace/codec"
)

// Token names a session to whoever has it. It is a secret: it must not be logged.
type Token = codec.Token

// NewToken is 128 random bits.
func NewToken() (t Token) {
	_, _ = rand.Read(t[:]) // it never fails
	return t
}

// Tokens finds what tokens stand for. They are looked up by their hash, so that the time it
// takes tells nothing of them, and compared in constant time. Any goroutine may use it.
type Tokens[T any] struct {
	mu sync.Mutex
	m  map[[sha256.Size]byte]entry[T] // guarded by mu
}

type entry[T any] struct {
	token Token
	value T
}

// Put has token stand for v.
func (x *Tokens[T]) Put(token Token, v T) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.m == nil {
		x.m = map[[sha256.Size]byte]entry[T]{}
	}
	x.m[sha256.Sum256(token[:])] = entry[T]{token, v}
}

// Find returns what token stands for.
func (x *Tokens[T]) Find(token Token) (v T, ok bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	e, ok := x.m[sha256.Sum256(token[:])]
	if !ok || subtle.ConstantTimeCompare(e.token[:], token[:]) != 1 {
		return v, false
	}
	return e.value, true
}

// Sum is what a token can be asked for by without being told.
func Sum(token Token) [sha256.Size]byte { return sha256.Sum256(token[:]) }

// FindSum returns the token of that Sum, and what it stands for.
func (x *Tokens[T]) FindSum(sum [sha256.Size]byte) (token Token, v T, ok bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	e, ok := x.m[sum]
	return e.token, e.value, ok
}

// Delete has token stand for nothing.
func (x *Tokens[T]) Delete(token Token) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.m, sha256.Sum256(token[:]))
}

// Len is how many tokens stand for something.
func (x *Tokens[T]) Len() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return len(x.m)
}
