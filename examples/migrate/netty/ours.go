// Package netty has a room on Netty, and the same on Millrace.
package netty

import (
	"time"

	"millrace/codec"
	"millrace/engine"
)

type room struct{ members *engine.Group }

func (r *room) OnSocketAccept(*engine.Session)               {}
func (r *room) OnSocketClose(*engine.Session, engine.Reason) {}

func (r *room) OnSocketRead(s *engine.Session, p codec.Packet) {
	name, named := s.Value().(string)
	switch {
	case p.Sub == 1:
		s.SetValue(string(p.Body))
		s.Reply(p, append([]byte("welcome, "), p.Body...))
		r.members.Join(s)
	case p.Sub == 2 && named:
		s.SendGroup(r.members, 0, 3, append([]byte(name+": "), p.Body...))
	default:
		s.Close()
	}
}

func config(addr string) engine.Config {
	return engine.Config{
		Addrs:  []string{addr},
		Layout: codec.Layout{LengthWidth: 2, Command: codec.MainSub8}, MaxFrame: 4096,
		NoSystemFrames: true, // these clients know no PING, ERROR or GOAWAY, and their types are Main 0
		Timeouts:       engine.Timeouts{IdleTimeout: time.Minute},
	}
}

func serve(addr string) (*engine.Server, error) {
	r := &room{}
	srv, err := engine.New(config(addr), r)
	if err != nil {
		return nil, err
	}
	r.members = srv.Group("room")
	return srv, nil
}
