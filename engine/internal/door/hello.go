package door

import (
	"crypto/tls"
	"encoding/binary"
	"slices"
)

// What is looked at of a ClientHello (RFC 8446, section 4.1.2) in front of crypto/tls: whether it is whole, and which group
// its sender could be asked for. Nothing is checked here: crypto/tls does that.

const (
	recordHead    = 5 // bytes: type, version, length
	messageHead   = 4 // bytes: type, length
	typeHandshake = 22
	typeHello     = 1
	extGroups     = 10
	extVersions   = 43
	extShares     = 51
)

// mostRecords is in how many records a ClientHello is looked at: each time something comes.
const mostRecords = 16

// helloWhole tells whether b, the beginning of a TLS stream, has all of a ClientHello, or something else, or so many
// records that it can't be said.
func helloWhole(b []byte) bool {
	var head [messageHead]byte
	got, need := 0, messageHead
	for n := 0; got < need && n < mostRecords; n++ {
		if len(b) > 0 && b[0] != typeHandshake {
			return true
		}
		if len(b) < recordHead {
			return false
		}
		size := int(binary.BigEndian.Uint16(b[3:]))
		if b[1] >= 0x10 || size == 0 || size > maxRecord+2<<10 { // crypto/tls takes it no further
			return true
		}
		body := b[recordHead:min(len(b), recordHead+size)]
		if got < messageHead {
			copy(head[got:], body)
			if got += len(body); got >= messageHead {
				need += int(binary.BigEndian.Uint32(head[:]) & 0xffffff)
				if head[0] != typeHello || need > maxHello {
					return true
				}
			}
		} else {
			got += len(body)
		}
		if got >= need {
			break
		}
		if len(body) < size {
			return false
		}
		b = b[recordHead+size:]
	}
	return true
}

// otherGroup is a group of allowed that the sender of a whole ClientHello knows and has sent no key share for, so that a
// HelloRetryRequest may ask for one; 0: there is none, or it speaks no TLS 1.3, or comes in several records.
func otherGroup(b []byte, allowed []tls.CurveID) tls.CurveID {
	h := part(b)
	h.skip(recordHead - 2)
	h = h.list(2) // the record
	h.skip(1)
	size := 0
	for _, b := range h.skip(messageHead - 1) {
		size = size<<8 | int(b)
	}
	if len(h) < size {
		return 0 // the rest is in other records
	}
	h = h[:size]
	h.skip(2 + 32) // the version and random bytes
	h.list(1)      // the session
	h.list(2)      // cipher suites
	h.list(1)      // compression
	var groups, shares part
	has13 := false
	for exts := h.list(2); len(exts) > 0; {
		kind := exts.number()
		body := exts.list(2)
		switch kind {
		case extGroups:
			groups = body.list(2)
		case extVersions:
			for list := body.list(1); len(list) > 0; {
				has13 = list.number() == tls.VersionTLS13 || has13
			}
		case extShares:
			shares = body.list(2)
		}
	}
	if !has13 {
		return 0
	}
	var known, sent []tls.CurveID
	for len(groups) > 0 {
		known = append(known, tls.CurveID(groups.number()))
	}
	for len(shares) > 0 {
		sent = append(sent, tls.CurveID(shares.number()))
		shares.list(2)
	}
	for _, g := range allowed {
		if slices.Contains(known, g) && !slices.Contains(sent, g) {
			return g
		}
	}
	return 0
}

// part is what is left of a part of a message. What would go beyond its end takes all.
type part []byte

func (p *part) skip(n int) part {
	n = min(n, len(*p))
	b := (*p)[:n]
	*p = (*p)[n:]
	return b
}

// number takes two bytes.
func (p *part) number() uint16 {
	if b := p.skip(2); len(b) == 2 {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

// list takes a list behind its length, of so many bytes.
func (p *part) list(bytes int) part {
	n := 0
	for _, b := range p.skip(bytes) {
		n = n<<8 | int(b)
	}
	return p.skip(n)
}
