package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"millrace/engine"
)

// TCP's flags.
const (
	flagFIN = 1 << iota
	flagSYN
	flagRST
	flagPSH // here: the bytes begin with a frame
	flagACK
)

const (
	ip4Head, ip6Head, tcpHead = 20, 40, 20

	protoTCP = 6

	// maxPayload is how many bytes a packet may bring with either IP.
	maxPayload = 1<<16 - 1 - ip4Head - tcpHead
)

// packet is an IP packet with a TCP segment.
type packet struct {
	from, to netip.AddrPort // both IPv4 or both IPv6
	seq, ack uint32
	flags    byte
	payload  []byte
}

func (p packet) size() int {
	if p.from.Addr().Is4() {
		return ip4Head + tcpHead + len(p.payload)
	}
	return ip6Head + tcpHead + len(p.payload)
}

// append appends the packet. The checksum of TCP is left out, as network cards do that.
func (p packet) append(dst []byte) []byte {
	be := binary.BigEndian
	from, to := p.from.Addr(), p.to.Addr()
	if from.Is4() {
		start := len(dst)
		dst = append(dst, 0x45, 0)
		dst = be.AppendUint16(dst, uint16(p.size()))
		dst = append(dst, 0, 0, 0x40, 0, 64, protoTCP, 0, 0) // don't fragment
		dst = append(append(dst, from.AsSlice()...), to.AsSlice()...)
		be.PutUint16(dst[start+10:], ipChecksum(dst[start:]))
	} else {
		dst = append(dst, 0x60, 0, 0, 0)
		dst = be.AppendUint16(dst, uint16(tcpHead+len(p.payload)))
		dst = append(dst, protoTCP, 64)
		dst = append(append(dst, from.AsSlice()...), to.AsSlice()...)
	}
	dst = be.AppendUint16(dst, p.from.Port())
	dst = be.AppendUint16(dst, p.to.Port())
	dst = be.AppendUint32(dst, p.seq)
	dst = be.AppendUint32(dst, p.ack)
	dst = append(dst, tcpHead/4<<4, p.flags)
	dst = append(dst, 0xff, 0xff, 0, 0, 0, 0) // window, checksum, urgent pointer
	return append(dst, p.payload...)
}

// ipChecksum is that of an IPv4 header whose own field is 0 (RFC 1071).
func ipChecksum(b []byte) uint16 {
	sum := uint32(0)
	for i := 0; i < ip4Head; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

var errPacket = errors.New("no TCP packet")

// parsePacket reads what append has written. The payload is a part of b.
func parsePacket(b []byte) (p packet, err error) {
	be := binary.BigEndian
	if len(b) < ip4Head {
		return p, errPacket
	}
	var from, to netip.Addr
	switch b[0] >> 4 {
	case 4:
		head, total := int(b[0]&15)*4, int(be.Uint16(b[2:]))
		if head < ip4Head || total < head || total > len(b) || b[9] != protoTCP || be.Uint16(b[6:])&0x3fff != 0 {
			return p, errPacket
		}
		from, to = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
		b = b[head:total]
	case 6:
		if len(b) < ip6Head || b[6] != protoTCP || ip6Head+int(be.Uint16(b[4:])) > len(b) {
			return p, errPacket
		}
		from, to = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
		b = b[ip6Head : ip6Head+int(be.Uint16(b[4:]))]
	default:
		return p, errPacket
	}
	if len(b) < tcpHead || int(b[12]>>4)*4 < tcpHead || int(b[12]>>4)*4 > len(b) {
		return p, errPacket
	}
	p.from = netip.AddrPortFrom(from, be.Uint16(b))
	p.to = netip.AddrPortFrom(to, be.Uint16(b[2:]))
	p.seq, p.ack, p.flags = be.Uint32(b[4:]), be.Uint32(b[8:]), b[13]
	p.payload = b[int(b[12]>>4)*4:]
	return p, nil
}

// addresses are a session's ends, as packets have them. Who has none, as on a unix socket,
// gets one of the loopback network from the session's ID.
func addresses(s *engine.Session) (peer, local netip.AddrPort) {
	peer, okPeer := addrPort(s.RemoteAddr())
	local, okLocal := addrPort(s.LocalAddr())
	if !okPeer || !okLocal {
		i := s.Index()
		peer = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, byte(i >> 16), byte(i >> 8), byte(i)}), uint16(s.Round()))
		local = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 1)
		return peer, local
	}
	if peer.Addr().Is4() != local.Addr().Is4() {
		peer = netip.AddrPortFrom(netip.AddrFrom16(peer.Addr().As16()), peer.Port())
		local = netip.AddrPortFrom(netip.AddrFrom16(local.Addr().As16()), local.Port())
	}
	return peer, local
}

func addrPort(a net.Addr) (netip.AddrPort, bool) {
	t, ok := a.(*net.TCPAddr)
	if !ok || t == nil {
		return netip.AddrPort{}, false
	}
	ap := t.AddrPort()
	if !ap.IsValid() {
		return ap, false
	}
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port()), true
}

// title names a session for people.
func title(s *engine.Session) string {
	return fmt.Sprintf("session %v, %s from %v", s.ID(), s.Transport(), s.RemoteAddr())
}
