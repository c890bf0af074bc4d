// Package zinx has a server on zinx that echoes message 1 and tells all message 2, and the same on
// Millrace, for the same clients.
package zinx

import (
	"github.com/aceld/zinx/ziface"
	"github.com/aceld/zinx/znet"
)

type ping struct{ znet.BaseRouter }

func (ping) Handle(req ziface.IRequest) {
	req.GetConnection().SendMsg(1, req.GetData())
}

type shout struct {
	znet.BaseRouter
	server ziface.IServer
}

func (s shout) Handle(req ziface.IRequest) {
	s.server.GetConnMgr().Range(func(_ uint64, c ziface.IConnection, _ interface{}) error {
		return c.SendBuffMsg(2, req.GetData())
	}, nil)
}

func theirs(s ziface.IServer) {
	s.AddRouter(1, &ping{})
	s.AddRouter(2, &shout{server: s})
}
