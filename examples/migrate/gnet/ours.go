package gnet

import (
	"millrace/codec"
	"millrace/engine"
)

type ours struct{}

func (ours) OnSocketAccept(*engine.Session)                 {}
func (ours) OnSocketRead(s *engine.Session, p codec.Packet) { s.Reply(p, p.Body) }
func (ours) OnSocketClose(*engine.Session, engine.Reason)   {}
