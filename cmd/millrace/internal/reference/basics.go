package reference

import (
	"errors"
	"math"
	"time"

	"millrace/codec"
	"millrace/engine"
	"millrace/services"
	"millrace/services/serial"
)

// The handles of Basics.
const (
	basics = 1 // Main of all of them

	subEcho      = 1
	subBroadcast = 2
	subWhoami    = 3
	subSleep     = 4
	subJoin      = 5
	subLeave     = 6
	subGroupSend = 7
	subGroupPush = 8 // server to client only
	subPanic     = 9
)

// maxGroupName is the longest name of a group, in bytes.
const maxGroupName = 256

// json encodes 1/8 as answers are encoded.
var json = serial.JSON(serial.Limits{})

// Basics registers 1/1 to 1/9: echo, broadcast, whoami, sleep, groups and, with unsafe, the panic.
// to is how far broadcasts and groups go.
func Basics(c *services.Controller, unsafe bool, to Reach) error {
	g := groups{to}
	var wait []services.Option // for services that may call other nodes, and answer in order
	if to.Spans() {
		wait = append(wait, services.Blocking())
	}
	err := errors.Join(
		c.Raw(services.Handle(basics, subEcho), echo, services.Name("echo")),
		c.Raw(services.Handle(basics, subBroadcast), g.broadcast, services.Name("broadcast")),
		services.Register(c, services.Handle(basics, subWhoami), services.Stages[services.None, whoamiReply]{Handle: whoami}, services.Name("whoami")),
		services.Register(c, services.Handle(basics, subSleep), services.Stages[sleepRequest, sleepReply]{Handle: sleep},
			services.Name("sleep"), services.Blocking()),
		services.Register(c, services.Handle(basics, subJoin), services.Stages[groupRequest, membersReply]{Handle: g.join}, append(wait, services.Name("join"))...),
		services.Register(c, services.Handle(basics, subLeave), services.Stages[groupRequest, membersReply]{Handle: g.leave}, services.Name("leave")),
		services.Register(c, services.Handle(basics, subGroupSend), services.Stages[sendRequest, sentReply]{Handle: g.send}, append(wait, services.Name("group send"))...))
	if unsafe {
		err = errors.Join(err, c.Raw(services.Handle(basics, subPanic), func(*engine.Session, codec.Packet) error {
			panic("1/9: a panic on purpose")
		}, services.Name("panic")))
	}
	return err
}

func echo(s *engine.Session, p codec.Packet) error { return s.Reply(p, p.Body) }

type whoamiReply struct {
	Index       uint32 `json:"index"`
	Round       uint32 `json:"round"`
	Addr        string `json:"addr"`
	ConnectedAt string `json:"connected_at"`
}

func whoami(ctx *services.Context, _ *services.None, res *whoamiReply) error {
	s := ctx.Session()
	*res = whoamiReply{
		Index: s.Index(), Round: s.Round(), Addr: s.RemoteAddr().String(),
		ConnectedAt: s.ConnectedAt().Format(time.RFC3339Nano),
	}
	return nil
}

type sleepRequest struct {
	MS int64 `json:"ms"`
}

type sleepReply struct {
	SleptMS int64 `json:"slept_ms"`
}

// Validate checks the range.
func (r *sleepRequest) Validate() error { return validMS(r.MS) }

// validMS checks a time in milliseconds.
func validMS(ms int64) error {
	if ms < 1 || ms > math.MaxUint32 {
		return errors.New("ms must be from 1 to 4294967295")
	}
	return nil
}

// sleep blocks its worker on purpose. It ends early when the session closes, so that clients that
// disconnect don't use up the spare workers.
func sleep(ctx *services.Context, req *sleepRequest, res *sleepReply) error {
	t := time.NewTimer(time.Duration(req.MS) * time.Millisecond)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Session().Context().Done():
	}
	res.SleptMS = req.MS
	return nil
}
