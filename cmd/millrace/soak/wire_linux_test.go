package soak

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"net"
	"time"

	"millrace/codec"
	"millrace/services/client"
)

// doors are the ways to the server.
var doors = []string{"tcp", "tls", "ws", "wss", "unix"}

func (s *soak) door(name string) string {
	if name == "unix" {
		return "unix://" + s.at.unix
	}
	return name + "://" + s.at.host
}

// anyCert takes whatever certificate the server has.
var anyCert = &tls.Config{InsecureSkipVerify: true}

// wire is one connection of a client that knows nothing but frames. One goroutine uses it.
type wire struct {
	net.Conn
	v     *visit
	in    *codec.Reader
	told  bool   // GOAWAY
	fed   bool   // something was answered
	final uint16 // code of an ERROR about the connection
	text  string // its text
	push  func(codec.Packet)
}

// dial opens a connection with a receive buffer of so many bytes, or the system's for 0.
// It may fail: the server may be gone, full or draining.
func (v *visit) dial(door string, receive int) (*wire, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := client.Connect(ctx, v.door(door), anyCert, func(ctx context.Context, network, addr string) (net.Conn, error) {
		var d net.Dialer
		c, err := d.DialContext(ctx, network, addr)
		if tcp, ok := c.(*net.TCPConn); ok && receive > 0 {
			_ = tcp.SetReadBuffer(receive)
		}
		return c, err
	})
	if err != nil {
		v.noService.Add(1)
		return nil, err
	}
	return &wire{Conn: conn, v: v, in: codec.NewReader(conn, nil)}, nil
}

// frames appends n frames made by fn.
func frames(n int, fn func(i int) codec.Packet) (b []byte) {
	for i := range n {
		b = fn(i).Append(b)
	}
	return b
}

func (w *wire) put(b []byte) error {
	_ = w.SetWriteDeadline(time.Now().Add(patience))
	_, err := w.Write(b)
	return err
}

func (w *wire) send(main, sub uint16, body string) error {
	return w.put(codec.Packet{Main: main, Sub: sub, Body: []byte(body)}.Append(nil))
}

// next returns the next answer: a frame that is neither the system's nor a push. ERRORs about
// requests are answers. The body is valid until the next call.
func (w *wire) next(within time.Duration) (codec.Packet, error) {
	for {
		_ = w.SetReadDeadline(time.Now().Add(within))
		p, err := w.in.Next()
		if err != nil {
			return p, err
		}
		switch code, handle := errorOf(p); {
		case p.Main == 0 && p.Sub == 1:
			if err := w.send(0, 2, string(p.Body)); err != nil {
				return p, err
			}
		case p.Main == 0 && p.Sub == 2:
		case p.Main == 0 && p.Sub == 4:
			w.told = true
		case code != 0 && handle == 0:
			w.final, w.text = code, string(p.Body[6:])
		case isPush(p):
			w.v.pushes.Add(1)
			if w.push != nil {
				w.push(p)
			}
		default:
			w.fed = true
			return p, nil
		}
	}
}

func isPush(p codec.Packet) bool { return p.Main == 1 && p.Sub == 8 || p.Main == 2 && p.Sub == 4 }

// errorOf returns the code of an ERROR and the handle that it is about; 0 for other packets.
func errorOf(p codec.Packet) (code uint16, handle uint32) {
	if p.Main != 0 || p.Sub != 3 || len(p.Body) < 6 {
		return 0, 0
	}
	return binary.BigEndian.Uint16(p.Body), binary.BigEndian.Uint32(p.Body[2:])
}

// ended judges the end of a connection with so many requests unanswered of those that were
// written together last.
func (w *wire) ended(unanswered, last int, err error) {
	v := w.v
	how := "broken"
	switch {
	case w.final != 0:
		how = fmt.Sprint("ERROR ", w.final)
	case w.told && unanswered > 0:
		how = "GOAWAY that crossed requests"
	case w.told:
		how = "GOAWAY"
	case v.srv.died.Load():
		how = "killed"
	}
	v.end(how)
	if !w.fed && (w.final == 7 || w.final == 12) { // it was never let in
		for range unanswered {
			v.refuse(w.final)
		}
		v.pause(v.some(100 * time.Millisecond))
		return
	}
	v.unknown.Add(uint64(unanswered))
	switch {
	case v.srv.died.Load(), w.final == 8: // a kill, a kick: nothing is promised
	case !w.fed && v.srv.ends.Load(): // it came too late to be let in
	case w.told && (unanswered == 0 || unanswered == last): // the FIN may cross what comes after 100 ms of silence, all of it
	default:
		v.violation("%s: a connection ended with %d requests unanswered, GOAWAY %v, ERROR %d %q: %v", v.name, unanswered, w.told, w.final, w.text, err)
	}
}
