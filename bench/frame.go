package bench

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// frameHeader is the length field and the handle of the default layout.
const frameHeader = 8

// keyLen is what the length field counts in addition to the body.
const keyLen = 4

const (
	handleEcho      = 1<<16 | 1
	handleBroadcast = 1<<16 | 2
	handleWhoami    = 1<<16 | 3
	handleSleep     = 1<<16 | 4
	handleJoin      = 1<<16 | 5
	handleGroupSend = 1<<16 | 7
	handleGroupPush = 1<<16 | 8
	handlePing      = 1
	handlePong      = 2
	handleError     = 3
	handleGoaway    = 4
	handleTimerSet  = 2<<16 | 1
	handleTimerKill = 2<<16 | 2
	handleTimerFire = 2<<16 | 4
	handleQuery     = 3<<16 | 1
	handleSum       = 4<<16 | 3
	handleSumInline = 4<<16 | 4
	handleCacheSet  = 5<<16 | 1
	handleCacheGet  = 5<<16 | 2
	handleCacheCAS  = 5<<16 | 3
	handleLock      = 5<<16 | 4
	handleUnlock    = 5<<16 | 5
	handleNodes     = 6<<16 | 1
	handleCallOn    = 6<<16 | 2
	handleBind      = 6<<16 | 3
	handleSendUser  = 6<<16 | 4
	handleRoom      = 6<<16 | 5
	handleUserPush  = 6<<16 | 6
)

func handleName(h uint32) string { return fmt.Sprintf("%d/%d", h>>16, h&0xffff) }

// greeting is the body of the echo that opens a connection.
var greeting = []byte("hello")

// appendHeader appends the header of a frame with n bytes of body.
func appendHeader(dst []byte, handle uint32, n int) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(keyLen+n))
	return binary.BigEndian.AppendUint32(dst, handle)
}

// appendFrame appends a whole frame.
func appendFrame(dst []byte, handle uint32, body []byte) []byte {
	return append(appendHeader(dst, handle, len(body)), body...)
}

// pattern makes and checks bodies that differ for every connection and every request, so that a
// reply that was changed, lost, duplicated, reordered or misdirected is detected: the first eight
// bytes are the connection and the sequence number, the rest is a slice of random bytes at an
// offset that depends on both.
type pattern struct {
	noise []byte
	size  int
}

// windowMask bounds the places where a window can start.
const windowMask = 4095

func newPattern(size int) *pattern {
	p := &pattern{noise: make([]byte, windowMask+1+size), size: size}
	x := uint64(0x9E3779B97F4A7C15)
	for i := range p.noise { // xorshift64*, Vigna 2016
		x ^= x >> 12
		x ^= x << 25
		x ^= x >> 27
		p.noise[i] = byte((x * 0x2545F4914F6CDD1D) >> 56)
	}
	return p
}

// stamp is the first eight bytes of body number seq of connection id.
func stamp(id uint32, seq uint64) uint64 { return uint64(id)<<40 ^ seq }

func (p *pattern) window(id uint32, seq uint64) []byte {
	at := (seq*31 + uint64(id)*17) & windowMask
	return p.noise[at : at+uint64(p.size)]
}

// append appends body number seq of connection id.
func (p *pattern) append(dst []byte, id uint32, seq uint64) []byte {
	w := p.window(id, seq)
	if p.size < 8 {
		return append(dst, w...)
	}
	dst = binary.BigEndian.AppendUint64(dst, stamp(id, seq))
	return append(dst, w[8:]...)
}

// appendFrame appends the frame that carries it.
func (p *pattern) appendFrame(dst []byte, handle, id uint32, seq uint64) []byte {
	return p.append(appendHeader(dst, handle, p.size), id, seq)
}

// check reports whether body is number seq of connection id, byte for byte.
func (p *pattern) check(body []byte, id uint32, seq uint64) bool {
	if len(body) != p.size {
		return false
	}
	w := p.window(id, seq)
	if p.size < 8 {
		return bytes.Equal(body, w)
	}
	return binary.BigEndian.Uint64(body) == stamp(id, seq) && bytes.Equal(body[8:], w[8:])
}

// explain describes what is wrong with a body that check rejected.
func (p *pattern) explain(body []byte, id uint32, seq uint64) error {
	if len(body) != p.size {
		return fmt.Errorf("reply %d of connection %d has %d bytes, want %d", seq, id, len(body), p.size)
	}
	if p.size >= 8 {
		if got := binary.BigEndian.Uint64(body); got != stamp(id, seq) {
			return fmt.Errorf("connection %d expected reply %d and got that of connection %d, number %d: reordered, lost or doubled",
				id, seq, got>>40, got&(1<<40-1))
		}
	}
	return fmt.Errorf("reply %d of connection %d is corrupt", seq, id)
}
