package refservices

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"millrace/codec"
	"millrace/engine"
	"millrace/services"
	"millrace/services/cluster"
	"millrace/services/nodes"
	"millrace/services/serial"
)

// Limits of 6/*.
const (
	maxUser = 64  // bytes
	maxRoom = 128 // bytes
	// callTime limits 6/2 as a whole, so that a node that hangs is reported in time.
	callTime = 4 * time.Second

	bindMain, bindSub = 6, 3
	pushMain, pushSub = 6, 6 // server to client only
)

var asJSON = serial.JSON(serial.Limits{})

// nodes registers 6/1 to 6/7.
func (x *Services) nodes() (err error) {
	n := x.cfg.Node
	if n == nil {
		return nil
	}
	x.rooms, err = nodes.NewHomes(n, nodes.HomesConfig[int64]{
		Name: "6/5", Handle: x.addToRoom, Idle: engine.Off, MaxRooms: x.cfg.MaxRooms,
		Save: func(value int64) ([]byte, error) { return binary.BigEndian.AppendUint64(nil, uint64(value)), nil },
		Restore: func(_ *nodes.Home[int64], saved []byte) (int64, error) {
			if len(saved) != 8 {
				return 0, fmt.Errorf("a saved counter of %d bytes", len(saved))
			}
			return int64(binary.BigEndian.Uint64(saved)), nil
		},
	})
	c := x.Controller
	return errors.Join(err,
		nodes.Serve(n, hSum, func(_ context.Context, req *sumRequest) (sumOn, error) {
			res, err := services.Inline[sumRequest, sumReply](c.Context(nil), hSum, *req)
			return sumOn{res.Sum, n.Name()}, err
		}),
		services.Register(c, hNodes, services.Stages[services.None, nodesReply]{Handle: x.listNodes}, services.Name("nodes")),
		services.Register(c, hCallOn, services.Stages[callRequest, sumOn]{Handle: x.callOn}, services.Name("call on a node"), services.Timeout(services.Forever)),
		services.Register(c, hBind, services.Stages[bindRequest, bindReply]{Handle: x.bind}, services.Name("bind"), services.Timeout(services.Forever)),
		services.Register(c, hSendUser, services.Stages[toUserRequest, toUserReply]{Handle: x.sendUser}, services.Name("send to user"), services.Timeout(services.Forever)),
		services.Register(c, hRoom, services.Stages[roomRequest, roomReply]{Handle: x.room}, services.Name("room"), services.Timeout(services.Forever)),
		services.Register(c, hWhere, services.Stages[services.None, whereReply]{Handle: x.where}, services.Name("where")))
}

// later runs fn on a goroutine of its own and answers the request with its result: waiting for
// other nodes occupies no worker.
func (x *Services) later(ctx *services.Context, fn func(ctx context.Context) (any, error)) error {
	if err := x.place(); err != nil {
		return err
	}
	s, reply := ctx.Session(), ctx.Defer()
	go func() {
		defer func() { <-x.work }()
		res, err := fn(s.Context())
		reply.Done(res, told(err))
	}()
	return nil
}

// place takes a place in work, which is given back with the answer.
func (x *Services) place() error {
	select {
	case x.work <- struct{}{}:
		return nil
	default:
		return services.Errorf(engine.CodeOverloaded, "too many requests to other nodes are in progress")
	}
}

// told returns the error for the client: for a message between nodes it says whether the operation
// may have been done.
func told(err error) error {
	switch {
	case errors.Is(err, cluster.ErrOverloaded):
		return &services.Error{Code: engine.CodeOverloaded, Text: cluster.ErrOverloaded.Error(), Err: err}
	case errors.Is(err, cluster.ErrTooLarge):
		return &services.Error{Code: engine.CodeLimit, Text: cluster.ErrTooLarge.Error(), Err: err}
	case errors.Is(err, cluster.ErrUnavailable):
		return &services.Error{Code: engine.CodeUnavailable, Text: cluster.ErrUnavailable.Error(), Err: err}
	case errors.Is(err, cluster.ErrLost):
		return &services.Error{Code: engine.CodeUnavailable, Text: cluster.ErrLost.Error(), Err: err}
	case errors.Is(err, cluster.ErrNoAnswer):
		return &services.Error{Code: engine.CodeUnavailable, Text: cluster.ErrNoAnswer.Error(), Err: err}
	case errors.Is(err, services.ErrCacheUnknown):
		return &services.Error{Code: engine.CodeUnavailable, Text: cluster.ErrLost.Error(), Err: err}
	case errors.Is(err, services.ErrCacheDown), errors.Is(err, services.ErrCacheClosed):
		return &services.Error{Code: engine.CodeUnavailable, Text: cluster.ErrUnavailable.Error(), Err: err}
	case errors.Is(err, engine.ErrLimit):
		return &services.Error{Code: engine.CodeLimit, Text: err.Error(), Err: err}
	}
	return err
}

type nodeEntry struct {
	Name     string `json:"name"`
	State    string `json:"state"`
	Sessions int    `json:"sessions"`
	Self     bool   `json:"self"`
}

type nodesReply struct {
	Nodes []nodeEntry `json:"nodes"`
}

func (x *Services) listNodes(_ *services.Context, _ *services.None, res *nodesReply) error {
	for _, m := range x.cfg.Node.List() {
		res.Nodes = append(res.Nodes, nodeEntry{m.Name, string(m.State), m.Sessions, m.Self})
	}
	return nil
}

type callRequest struct {
	Node string `json:"node"`
	A    int64  `json:"a"`
	B    int64  `json:"b"`
}

type sumOn struct {
	Sum  int64  `json:"sum"`
	Node string `json:"node"`
}

func (x *Services) callOn(ctx *services.Context, req *callRequest, _ *sumOn) error {
	if err := x.place(); err != nil {
		return err
	}
	s, reply := ctx.Session(), ctx.Defer()
	nodes.CallThen(s.Context(), x.cfg.Node, hSum, sumRequest{req.A, req.B}, nodes.CallOptions{Node: req.Node, Session: s, Timeout: callTime},
		func(res sumOn, err error) {
			<-x.work
			reply.Done(res, told(err))
		})
	return nil
}

type bindRequest struct {
	User string `json:"user"`
}

// Validate checks the name.
func (r *bindRequest) Validate() error { return validUser(r.User) }

func validUser(user string) error {
	if len(user) == 0 || len(user) > maxUser {
		return fmt.Errorf("user must have 1 to %d bytes", maxUser)
	}
	return nil
}

type bindReply struct {
	Epoch uint64 `json:"epoch"`
}

func (x *Services) bind(ctx *services.Context, req *bindRequest, _ *bindReply) error {
	s, user := ctx.Session(), req.User
	return x.later(ctx, func(ctx context.Context) (any, error) {
		epoch, err := x.cfg.Node.Bind(ctx, s, codec.Packet{Main: bindMain, Sub: bindSub}, user)
		return bindReply{epoch}, err
	})
}

type toUserRequest struct {
	User string `json:"user"`
	Data string `json:"data"`
}

// Validate checks the name.
func (r *toUserRequest) Validate() error { return validUser(r.User) }

type toUserReply struct {
	Sent bool `json:"sent"`
}

type userPush struct {
	User string `json:"user"`
	Data string `json:"data"`
	Node string `json:"node"`
}

func (x *Services) sendUser(ctx *services.Context, req *toUserRequest, _ *toUserReply) error {
	body, err := asJSON.Append(nil, &userPush{req.User, req.Data, x.cfg.Node.Name()})
	if err != nil {
		return err
	}
	if most := ctx.Session().Server().Config().MaxFrame - eventFrame; len(body) > most {
		return services.Errorf(engine.CodeLimit, "the message does not fit a frame")
	}
	if err := x.place(); err != nil {
		return err
	}
	s, reply := ctx.Session(), ctx.Defer()
	x.cfg.Node.SendUserThen(s.Context(), req.User, pushMain, pushSub, body, func(sent bool, err error) {
		<-x.work
		reply.Done(toUserReply{sent}, told(err))
	})
	return nil
}

type roomRequest struct {
	Room string `json:"room"`
	Add  int64  `json:"add"`
}

// Validate checks the name.
func (r *roomRequest) Validate() error {
	if len(r.Room) == 0 || len(r.Room) > maxRoom {
		return fmt.Errorf("room must have 1 to %d bytes", maxRoom)
	}
	return nil
}

type roomReply struct {
	Value int64  `json:"value"`
	Node  string `json:"node"`
	Token uint64 `json:"token"`
}

func (x *Services) room(ctx *services.Context, req *roomRequest, _ *roomReply) error {
	if err := x.place(); err != nil {
		return err
	}
	s, reply := ctx.Session(), ctx.Defer()
	x.rooms.AskThen(s.Context(), req.Room, binary.BigEndian.AppendUint64(nil, uint64(req.Add)), func(answer []byte, err error) {
		<-x.work
		var res roomReply
		if err == nil {
			err = asJSON.Decode(answer, &res)
		}
		reply.Done(res, told(err))
	})
	return nil
}

// addToRoom runs in the room, on the room's node.
func (x *Services) addToRoom(r *nodes.Home[int64], body []byte) ([]byte, error) {
	if len(body) != 8 {
		return nil, services.Errorf(engine.CodeBadBody, "add must be an integer")
	}
	add := int64(binary.BigEndian.Uint64(body))
	if add > 0 && r.State > math.MaxInt64-add || add < 0 && r.State < math.MinInt64-add {
		return nil, services.Errorf(engine.CodeBadBody, "the value is out of range")
	}
	r.State += add
	return asJSON.Append(nil, &roomReply{r.State, x.cfg.Node.Name(), r.Token()})
}

type whereReply struct {
	Node string `json:"node"`
	ID   string `json:"id"`
}

func (x *Services) where(ctx *services.Context, _ *services.None, res *whereReply) error {
	*res = whereReply{x.cfg.Node.Name(), x.cfg.Node.ID(ctx.Session()).String()}
	return nil
}
