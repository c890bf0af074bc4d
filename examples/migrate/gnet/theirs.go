// Package gnet has a server of length-prefixed frames on plain gnet, and the same on Millrace.
package gnet

import (
	"encoding/binary"

	"github.com/panjf2000/gnet/v2"
)

type theirs struct {
	gnet.BuiltinEventEngine
}

func (theirs) OnTraffic(c gnet.Conn) gnet.Action {
	var out []byte
	for {
		head, err := c.Peek(4)
		if err != nil {
			break
		}
		n := int(binary.BigEndian.Uint32(head))
		if n < 4 || n > 64<<10 {
			return gnet.Close
		}
		frame, err := c.Peek(4 + n)
		if err != nil {
			break
		}
		out = append(out, frame...)
		c.Discard(4 + n)
	}
	c.Write(out)
	return gnet.None
}
