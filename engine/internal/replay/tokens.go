package replay

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"sync"

	"millrace/codec"
)

// Token gives whoever has it access to a session. It is a secret and must not be logged.
type Token = codec.Token

// NewToken returns 128 random bits.
func NewToken() (t Token) {
	_, _ = rand.Read(t[:]) // it never fails
	return t
}

// Tokens maps tokens to values. They are looked up by their SHA-256 and compared in constant time, so
// that the time of a lookup reveals nothing about them. Any goroutine may use it.
type Tokens[T any] struct {
	mu sync.Mutex
	m  map[[sha256.Size]byte]entry[T] // guarded by mu
}

type entry[T any] struct {
	token Token
	value T
}

// Put sets the value of a token.
func (x *Tokens[T]) Put(token Token, v T) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.m == nil {
		x.m = map[[sha256.Size]byte]entry[T]{}
	}
	x.m[sha256.Sum256(token[:])] = entry[T]{token, v}
}

// Find returns the value of a token.
func (x *Tokens[T]) Find(token Token) (v T, ok bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	e, ok := x.m[sha256.Sum256(token[:])]
	if !ok || subtle.ConstantTimeCompare(e.token[:], token[:]) != 1 {
		return v, false
	}
	return e.value, true
}

// Sum returns the SHA-256 of a token, with which it can be looked up without being revealed.
func Sum(token Token) [sha256.Size]byte { return sha256.Sum256(token[:]) }

// FindSum returns the token with that Sum, and its value.
func (x *Tokens[T]) FindSum(sum [sha256.Size]byte) (token Token, v T, ok bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	e, ok := x.m[sum]
	return e.token, e.value, ok
}

// Delete removes a token.
func (x *Tokens[T]) Delete(token Token) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.m, sha256.Sum256(token[:]))
}

// Len returns the number of tokens.
func (x *Tokens[T]) Len() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return len(x.m)
}
