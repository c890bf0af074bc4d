package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
)

// natsConn is a client's connection. Requests run on goroutines of their own; their answers are written in the order of
// the requests.
type natsConn struct {
	net.Conn
	node    *natsNode
	answers chan chan []byte
	mu      sync.Mutex // a write is whole
}

func (c *natsConn) write(b []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := c.Write(b)
	return err
}

// answer writes what is ready in one piece.
func (c *natsConn) answer() {
	defer c.Close()
	for next := range c.answers {
		out := <-next
		for more := true; more; {
			select {
			case next, open := <-c.answers:
				if !open {
					more = false
					break
				}
				select {
				case b := <-next:
					out = append(out, b...)
				default:
					if c.write(out) != nil {
						return
					}
					out = <-next
				}
			default:
				more = false
			}
		}
		if c.write(out) != nil {
			return
		}
	}
}

func (c *natsConn) read() {
	defer close(c.answers)
	defer c.leave()
	in := make([]byte, readBuffer)
	held := 0
	for {
		n, err := c.Read(in[held:])
		if err != nil {
			return
		}
		held += n
		used := 0
		for {
			frame, err := next(in[used:held])
			if err != nil {
				return
			}
			if frame == nil {
				break
			}
			used += len(frame)
			if err := c.serve(append([]byte(nil), frame...)); err != nil {
				return
			}
		}
		if held = copy(in, in[used:held]); held == len(in) {
			in = append(in, make([]byte, len(in))...)
		}
	}
}

// leave ends the memberships. What is bound stays until another binds it.
func (c *natsConn) leave() {
	c.node.mu.Lock()
	defer c.node.mu.Unlock()
	for _, g := range c.node.groups {
		delete(g.members, c)
	}
}

func (c *natsConn) serve(frame []byte) error {
	handle := binary.BigEndian.Uint32(frame[4:])
	body := frame[header:]
	var fn func() ([]byte, error)
	with := func(f func([]byte) ([]byte, error)) { fn = func() ([]byte, error) { return f(body) } }
	s := c.node
	done := make(chan []byte, 1)
	switch handle {
	case echoHandle:
		done <- frame
	case sendHandle: // in the order of the requests
		b, err := s.sendGroup(body)
		if err != nil {
			return err
		}
		done <- frameOf(handle, b)
	case nodesHandle:
		with(s.list)
	case callHandle:
		with(s.call)
	case userHandle:
		with(s.sendUser)
	case roomHandle:
		with(s.room)
	case joinHandle:
		fn = func() ([]byte, error) { return s.joinGroup(c, body) }
	case bindHandle:
		fn = func() ([]byte, error) { return s.bind(c, body) }
	default:
		return errFrame
	}
	if fn != nil && s.nc == nil {
		return io.ErrClosedPipe // it was started without -nats
	}
	c.answers <- done
	if fn == nil {
		return nil
	}
	go func() {
		b, err := fn()
		if err != nil {
			fmt.Println("peers: nats:", err) // the suite shows it
			c.Close()
		}
		done <- frameOf(handle, b)
	}()
	return nil
}

func frameOf(handle uint32, body []byte) []byte {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, header+len(body)), uint32(len(body)+4))
	return append(binary.BigEndian.AppendUint32(b, handle), body...)
}
