package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"

	"github.com/gobwas/ws"
	"github.com/panjf2000/gnet/v2"
)

// gobwasServer is gobwas/ws on gnet, WebSocket only: every whole message that has come is unmasked in place and
// answered, and the answers of one batch leave in one Write.
type gobwasServer struct {
	gnetServer
}

// gobwasConn is a connection's context.
type gobwasConn struct {
	loop *gnetLoop
	open bool // the upgrade is done
	rd   bytes.Reader
	room [ws.MaxHeaderSize]byte
}

func serveGobwas(o options) error {
	addr, err := freeAddr(o.addr)
	if err != nil {
		return err
	}
	s := &gobwasServer{}
	s.addr = addr
	return gnet.Run(s, "tcp://"+addr, gnetOptions(o)...)
}

func (s *gobwasServer) OnBoot(eng gnet.Engine) gnet.Action {
	s.engine = eng
	announceAll("ws://" + s.addr)
	return gnet.None
}

func (s *gobwasServer) OnOpen(c gnet.Conn) ([]byte, gnet.Action) {
	c.SetContext(&gobwasConn{loop: s.loopOf(c.EventLoop())})
	return nil, gnet.None
}

func (s *gobwasServer) OnClose(c gnet.Conn, _ error) gnet.Action {
	if g, ok := c.Context().(*gobwasConn); ok {
		delete(g.loop.conns, c)
	}
	return gnet.None
}

func (s *gobwasServer) OnTraffic(c gnet.Conn) gnet.Action {
	g := c.Context().(*gobwasConn)
	in, err := c.Peek(-1)
	if err != nil {
		return gnet.Close
	}
	if !g.open {
		return s.upgrade(c, g, in)
	}
	used := 0
	g.loop.out, used, err = g.messages(g.loop.out[:0], in, s.broadcast)
	if used > 0 {
		_, _ = c.Discard(used)
	}
	if len(g.loop.out) > 0 {
		_, _ = c.Write(g.loop.out) // a failure reaches OnClose
	}
	if err != nil {
		return gnet.Close
	}
	return gnet.None
}

// messages serves every whole message of in. The load sends each as one frame.
func (g *gobwasConn) messages(out, in []byte, cast func([]byte)) (_ []byte, used int, err error) {
	for used < len(in) {
		g.rd.Reset(in[used:])
		h, err := ws.ReadHeaderBuffer(&g.rd, g.room[:])
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err == nil {
			err = ws.CheckHeader(h, ws.StateServerSide)
		}
		if err != nil || h.Length > maxFrame+header || !h.Fin {
			return out, used, errFrame
		}
		at := len(in) - g.rd.Len()
		if int64(len(in)-at) < h.Length {
			break
		}
		payload := in[at : at+int(h.Length)]
		ws.Cipher(payload, h.Mask, 0)
		used = at + len(payload)
		switch h.OpCode {
		case ws.OpBinary:
			if out, err = appendMessage(out, payload, cast); err != nil {
				return out, used, err
			}
		case ws.OpPing:
			out = append(appendWSHeader(out, ws.OpPong, len(payload)), payload...)
		case ws.OpPong:
		case ws.OpClose:
			return append(appendWSHeader(out, ws.OpClose, len(payload)), payload...), used, io.EOF
		default:
			return out, used, errFrame
		}
	}
	return out, used, nil
}

// appendMessage appends the message that answers payload: as long as that, unless it has broadcasts.
func appendMessage(out, payload []byte, cast func([]byte)) ([]byte, error) {
	casts := 0
	begin := len(out)
	out = appendWSHeader(out, ws.OpBinary, len(payload))
	body := len(out)
	out, err := answerMessage(out, payload, func(frame []byte) {
		casts++
		cast(frame)
	})
	if casts > 0 && err == nil {
		answers := bytes.Clone(out[body:])
		out = out[:begin]
		if len(answers) > 0 {
			out = append(appendWSHeader(out, ws.OpBinary, len(answers)), answers...)
		}
	}
	return out, err
}

// appendWSHeader appends the header of a server's frame: ws.WriteHeader would allocate.
func appendWSHeader(out []byte, op ws.OpCode, n int) []byte {
	out = append(out, 0x80|byte(op))
	switch {
	case n <= 125:
		return append(out, byte(n))
	case n <= 0xffff:
		return binary.BigEndian.AppendUint16(append(out, 126), uint16(n))
	}
	return binary.BigEndian.AppendUint64(append(out, 127), uint64(n))
}

// upgrade answers the request once it is whole.
func (s *gobwasServer) upgrade(c gnet.Conn, g *gobwasConn, in []byte) gnet.Action {
	end := bytes.Index(in, []byte("\r\n\r\n"))
	if end < 0 {
		return gnet.None
	}
	end += 4
	var answer bytes.Buffer
	_, err := ws.Upgrade(struct {
		io.Reader
		io.Writer
	}{bytes.NewReader(in[:end]), &answer})
	_, _ = c.Discard(end)
	_, _ = c.Write(answer.Bytes())
	if err != nil {
		return gnet.Close
	}
	g.open = true
	g.loop.conns[c] = struct{}{}
	if c.InboundBuffered() > 0 {
		return s.OnTraffic(c)
	}
	return gnet.None
}

// broadcast runs on the sender's loop; the frame's message is made once.
func (s *gobwasServer) broadcast(frame []byte) {
	message := append(appendWSHeader(nil, ws.OpBinary, len(frame)), frame...)
	s.loopsMu.Lock()
	loops := s.loops
	s.loopsMu.Unlock()
	for _, l := range loops {
		_ = l.loop.Execute(context.Background(), task(func() { l.writeAll(message) }))
	}
}
