package reference

import (
	"context"
	"errors"
	"strconv"

	"millrace/codec"
	"millrace/engine"
	"millrace/services"
)

// Reach is how far broadcasts and groups go: over this server (Here), or over all nodes of a
// cluster.
type Reach interface {
	Spans() bool      // beyond this server: Join and SendGroup may block
	NodeName() string // this node's name in 1/8; "" omits it

	Broadcast(s *engine.Session, main, sub uint16, body []byte) error
	Join(ctx context.Context, s *engine.Session, group string) (members int, err error)
	Leave(s *engine.Session, group string) (members int, err error)
	SendGroup(ctx context.Context, s *engine.Session, group string, main, sub uint16, body []byte) (sent int, err error)
}

// Here is the Reach of one server.
type Here struct{}

func (Here) Spans() bool      { return false }
func (Here) NodeName() string { return "" }

func (Here) Broadcast(s *engine.Session, main, sub uint16, body []byte) error {
	return s.Broadcast(main, sub, body)
}

func (Here) Join(_ context.Context, s *engine.Session, group string) (int, error) {
	return s.Server().Group(group).Join(s)
}

func (Here) Leave(s *engine.Session, group string) (int, error) {
	return s.Server().Group(group).Leave(s)
}

func (Here) SendGroup(_ context.Context, s *engine.Session, group string, main, sub uint16, body []byte) (int, error) {
	return s.SendGroup(s.Server().Group(group), main, sub, body)
}

// groups has the services for broadcasts and groups.
type groups struct{ to Reach }

// broadcast sends p to every session; the copy that the sender gets is its answer.
func (g groups) broadcast(s *engine.Session, p codec.Packet) error {
	return sendError(g.to.Broadcast(s, p.Main, p.Sub, p.Body))
}

type groupRequest struct {
	Group string `json:"group"`
}

// Validate checks the name.
func (r *groupRequest) Validate() error { return validGroup(r.Group) }

type membersReply struct {
	Members int `json:"members"`
}

func (g groups) join(ctx *services.Context, req *groupRequest, res *membersReply) (err error) {
	s := ctx.Session()
	res.Members, err = g.to.Join(ctx, s, req.Group)
	return sendError(err)
}

func (g groups) leave(ctx *services.Context, req *groupRequest, res *membersReply) (err error) {
	s := ctx.Session()
	res.Members, err = g.to.Leave(s, req.Group)
	return sendError(err)
}

type sendRequest struct {
	Group string `json:"group"`
	Data  string `json:"data"`
}

// Validate checks the name.
func (r *sendRequest) Validate() error { return validGroup(r.Group) }

type sentReply struct {
	Sent int `json:"sent"`
}

type groupPush struct {
	Group string `json:"group"`
	From  uint32 `json:"from"`
	Round uint32 `json:"round"`
	Data  string `json:"data"`
	Node  string `json:"node,omitempty"`
}

func (g groups) send(ctx *services.Context, req *sendRequest, res *sentReply) error {
	s := ctx.Session()
	body, err := json.Append(nil, &groupPush{Group: req.Group, From: s.Index(), Round: s.Round(), Data: req.Data, Node: g.to.NodeName()})
	if err != nil {
		return err
	}
	res.Sent, err = g.to.SendGroup(ctx, s, req.Group, basics, subGroupPush, body)
	return sendError(err)
}

func validGroup(name string) error {
	if len(name) > maxGroupName {
		return &services.Error{Code: engine.CodeLimit, Text: "a group's name has at most " + strconv.Itoa(maxGroupName) + " bytes"}
	}
	return nil
}

// sendError returns the error for the client when a send failed or a group could not be joined; nil
// if the session has closed.
func sendError(err error) error {
	switch {
	case err == nil, errors.Is(err, engine.ErrClosed):
		return nil
	case errors.Is(err, engine.ErrLimit):
		return &services.Error{Code: engine.CodeLimit, Text: "too many groups", Err: err}
	case errors.Is(err, engine.ErrFrameTooLarge):
		return &services.Error{Code: engine.CodeLimit, Text: "the message does not fit a frame", Err: err}
	case errors.Is(err, engine.ErrBusy):
		return &services.Error{Code: engine.CodeOverloaded, Text: "too much is waiting to be sent; try again later", Err: err}
	}
	return err
}
