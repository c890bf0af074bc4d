package main

import (
	"encoding/json"
	"errors"

	"millrace/codec"
	"millrace/engine"
	"millrace/services"
	"millrace/services/events"
	"millrace/services/nodes"
)

// The handles, all of Main 1.
const (
	subRegister = 1
	subLogin    = 2
	subSay      = 3
	subSaid     = 4 // from the server
)

// login binds each user to one session, on whichever node that is.
type login struct {
	accounts *accounts
	node     *nodes.Node
}

func (l *login) register(to *services.Controller) error {
	h := func(sub uint16) uint32 { return services.Handle(1, sub) }
	to.Use(h(subRegister), h(subLogin), services.RateLimit(1, 5)) // of a session: a password a second
	to.Use(h(subSay), h(subSay), services.Auth(func(ctx *services.Context) bool { return userOf(ctx) != "" }))
	return errors.Join(
		services.Register(to, h(subRegister), services.Stages[credentials, services.None]{Handle: l.create}, services.Name("register"), services.Blocking()),
		services.Register(to, h(subLogin), services.Stages[credentials, loggedIn]{Handle: l.login}, services.Name("login"), services.Blocking()),
		services.Register(to, h(subSay), services.Stages[line, sent]{Handle: l.say}, services.Name("say"), services.Blocking()))
}

// userOf returns the user of a session; "" before the login.
func userOf(ctx *services.Context) string {
	name, _ := ctx.Session().Value().(string)
	return name
}

type credentials struct {
	Name     string `json:"name"`
	Password string `json:"password"`
}

// Validate is called before the handler.
func (c *credentials) Validate() error {
	if len(c.Name) < 1 || len(c.Name) > 64 || len(c.Password) < 8 || len(c.Password) > 1024 {
		return errors.New("name has 1 to 64 bytes, password 8 to 1024")
	}
	return nil
}

func (l *login) create(ctx *services.Context, req *credentials, _ *services.None) error {
	err := l.accounts.create(ctx.Lasting(), events.DB(ctx), req.Name, req.Password)
	if errors.Is(err, errTaken) {
		return services.Errorf(engine.CodeConflict, "the name is taken")
	}
	return err
}

type loggedIn struct {
	Epoch uint64 `json:"epoch"` // grows with each login of the user
	Node  string `json:"node"`
}

// login binds the user to this session. The user's previous session, on whichever node, gets ERROR 9
// about this handle and is closed.
func (l *login) login(ctx *services.Context, req *credentials, res *loggedIn) error {
	if user := userOf(ctx); user != "" && user != req.Name {
		return services.Errorf(engine.CodeConflict, "this session is %s's", user)
	}
	err := l.accounts.check(ctx.Lasting(), events.DB(ctx), req.Name, req.Password)
	if errors.Is(err, errWrong) {
		return services.Errorf(engine.CodeUnauthorised, "wrong name or password")
	}
	if err != nil {
		return err
	}
	s := ctx.Session()
	res.Node = l.node.Name()
	if res.Epoch, err = l.node.Bind(ctx.Lasting(), s, codec.Packet{Main: 1, Sub: subLogin}, req.Name); err != nil {
		return err
	}
	s.SetValue(req.Name)
	return nil
}

type line struct {
	To   string `json:"to"`
	Text string `json:"text"`
}

type said struct {
	From string `json:"from"`
	Text string `json:"text"`
}

type sent struct {
	Sent bool `json:"sent"` // false: the user is not logged in anywhere
}

func (l *login) say(ctx *services.Context, req *line, res *sent) error {
	body, err := json.Marshal(said{userOf(ctx), req.Text})
	if err != nil {
		return err
	}
	res.Sent, err = l.node.SendUser(ctx.Lasting(), req.To, 1, subSaid, body)
	return err
}
