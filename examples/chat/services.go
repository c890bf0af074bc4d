package main

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"millrace/engine"
	"millrace/services"
)

// The handles. All are of Main 1.
const (
	mainChat = 1

	subJoin    = 1
	subSay     = 2
	subHistory = 3
	subLeave   = 4
	subRooms   = 5
	subLine    = 6 // server to client: a line of a room that the session has joined
	subWho     = 7 // server to client: who is in it, when that has changed
)

// register registers the handlers.
func (c *chat) register(to *services.Controller) error {
	to.OnClose(func(s *engine.Session, _ engine.Reason) {
		if p, ok := s.Value().(*peer); ok {
			for room := range p.rooms {
				c.part(s, room)
			}
		}
	})
	h := func(sub uint16) uint32 { return services.Handle(mainChat, sub) }
	return errors.Join(
		services.Register(to, h(subJoin), services.Stages[joinRequest, joinReply]{Handle: c.join}, services.Name("join")),
		services.Register(to, h(subSay), services.Stages[sayRequest, sayReply]{Handle: c.say}, services.Name("say")),
		services.Register(to, h(subHistory), services.Stages[historyRequest, past]{Handle: c.history}, services.Name("history")),
		services.Register(to, h(subLeave), services.Stages[leaveRequest, leaveReply]{Handle: c.leave}, services.Name("leave")),
		services.Register(to, h(subRooms), services.Stages[services.None, roomsReply]{Handle: c.list}, services.Name("rooms")))
}

// peer is the state of a session, stored as its Value.
type peer struct {
	rooms map[string]person // that it has joined
	saved float64           // lines that it may say at once
	at    time.Time         // when saved was right
}

// person is a user in a room: the name that others see, and an ID chosen by the client, which others
// don't see. While a person is in the room, nobody with another ID can use the name.
type person struct{ name, id string }

func peerOf(s *engine.Session) *peer {
	p, ok := s.Value().(*peer)
	if !ok {
		p = &peer{rooms: map[string]person{}, saved: burst, at: time.Now()}
		s.SetValue(p)
	}
	return p
}

// A session may send burst lines at once, and perSecond lines a second after that.
const (
	burst     = 100
	perSecond = 10
)

func (p *peer) mayTalk(now time.Time) bool {
	p.saved = min(burst, p.saved+now.Sub(p.at).Seconds()*perSecond)
	p.at = now
	if p.saved < 1 {
		return false
	}
	p.saved--
	return true
}

type joinRequest struct {
	Room  string `json:"room"`
	Name  string `json:"name"`
	ID    string `json:"id,omitempty"`
	Log   string `json:"log,omitempty"`   // that After is of; "" for whichever there is
	After uint64 `json:"after,omitempty"` // the last line that the client has
}

type joinReply struct {
	past
	Who   []string `json:"who"`
	Count int      `json:"count"`
}

// Validate checks the names.
func (r *joinRequest) Validate() error {
	return errors.Join(validName("room", r.Room), validName("name", r.Name), validID("id", r.ID))
}

// join makes the session a member before it reads the lines. A line that arrives in between is sent
// twice, with the same number, and none is missed.
func (c *chat) join(ctx *services.Context, r *joinRequest, res *joinReply) error {
	s := ctx.Session()
	p := peerOf(s)
	if _, in := p.rooms[r.Room]; !in && len(p.rooms) >= maxJoined {
		return &services.Error{Code: engine.CodeLimit, Text: fmt.Sprintf("a session is in %d rooms at most", maxJoined)}
	}
	who := person{r.Name, r.ID}
	if who.id == "" {
		who.id = "session " + s.ID().String()
	}
	if err := c.enter(s, r.Room, who); err != nil {
		return err
	}
	p.rooms[r.Room] = who
	if _, err := c.server.Group(r.Room).Join(s); err != nil && !errors.Is(err, engine.ErrClosed) {
		return err
	}
	res.past = c.past(r.Room, r.Log, r.After)
	res.Who, res.Count = c.who(r.Room)
	return nil
}

type sayRequest struct {
	Room string `json:"room"`
	Text string `json:"text"`
	Name string `json:"name,omitempty"` // of a session that has not joined the room
	ID   string `json:"id,omitempty"`   // the same
	// Key names the line for good, so that it may be sent again when it is not known what
	// became of it: it is said once. Log and Seen are the last line that the client had when
	// it first sent this one: past it, the key is looked for. Without a key a line is said
	// each time that it is sent.
	Key  string `json:"key,omitempty"`
	Log  string `json:"log,omitempty"`
	Seen uint64 `json:"seen,omitempty"`
}

type sayReply struct {
	Seq uint64 `json:"seq"`
}

// Validate checks the names and the text.
func (r *sayRequest) Validate() error {
	err := errors.Join(validName("room", r.Room), validID("id", r.ID), validID("key", r.Key))
	if r.Name != "" {
		err = errors.Join(err, validName("name", r.Name))
	}
	switch {
	case strings.TrimSpace(r.Text) == "":
		err = errors.Join(err, errors.New("text is empty"))
	case len(r.Text) > maxText:
		err = errors.Join(err, fmt.Errorf("text has %d bytes, at most %d are taken", len(r.Text), maxText))
	case strings.ContainsFunc(r.Text, func(c rune) bool { return unicode.IsControl(c) && c != '\n' && c != '\t' }):
		err = errors.Join(err, errors.New("text has control characters"))
	}
	return err
}

// say passes the line to the keeper, which answers when the line is in the file.
func (c *chat) say(ctx *services.Context, r *sayRequest, _ *sayReply) error {
	s := ctx.Session()
	p := peerOf(s)
	who, joined := p.rooms[r.Room]
	if !joined {
		if r.Name == "" {
			return &services.Error{Code: engine.CodeUnauthorised, Text: "join the room first, or give a name"}
		}
		who = person{r.Name, r.ID}
		if !c.free(r.Room, who) {
			return errNameTaken
		}
	}
	if !p.mayTalk(time.Now()) {
		return &services.Error{Code: engine.CodeLimit, Text: fmt.Sprintf("more than %d lines a second", perSecond)}
	}
	reply := ctx.Defer()
	said := saying{line: line{Room: r.Room, Name: who.name, Text: r.Text, Key: r.Key}, log: r.Log, seen: r.Seen,
		done: func(seq uint64, err error) { reply.Done(&sayReply{Seq: seq}, err) }}
	select {
	case c.says <- said:
		return nil
	default:
		return &services.Error{Code: engine.CodeOverloaded, Text: "too many lines wait to be written; try again later"}
	}
}

type historyRequest struct {
	Room  string `json:"room"`
	Log   string `json:"log,omitempty"`
	After uint64 `json:"after,omitempty"`
}

// Validate checks the name.
func (r *historyRequest) Validate() error { return validName("room", r.Room) }

func (c *chat) history(_ *services.Context, r *historyRequest, res *past) error {
	*res = c.past(r.Room, r.Log, r.After)
	return nil
}

type leaveRequest struct {
	Room string `json:"room"`
}

type leaveReply struct {
	Left bool `json:"left"` // it was there
}

func (c *chat) leave(ctx *services.Context, r *leaveRequest, res *leaveReply) error {
	s := ctx.Session()
	p := peerOf(s)
	if _, res.Left = p.rooms[r.Room]; !res.Left {
		return nil
	}
	delete(p.rooms, r.Room)
	c.part(s, r.Room)
	_, err := c.server.Group(r.Room).Leave(s)
	return err
}

type roomsReply struct {
	Rooms []roomInfo `json:"rooms"`
}

type roomInfo struct {
	Name string `json:"name"`
	Here int    `json:"here"`
	Last uint64 `json:"last"`
}

func (c *chat) list(_ *services.Context, _ *services.None, res *roomsReply) error {
	res.Rooms = c.rooms.list()
	return nil
}

// Limits of what clients send.
const (
	maxText   = 2000 // bytes
	maxName   = 32   // characters of a name or a room
	maxID     = 64   // bytes of an ID or a key
	maxJoined = 8    // rooms of a session
	maxWho    = 100  // names that are told; Count says how many there are
	maxPage   = 40 << 10
)

// validName checks a name that others see: it is not empty, has no space at either end, is not too
// long, and has printable characters only.
func validName(what, s string) error {
	switch {
	case s == "" || strings.TrimSpace(s) != s:
		return fmt.Errorf("%s is empty or begins or ends with a space", what)
	case utf8.RuneCountInString(s) > maxName:
		return fmt.Errorf("%s has more than %d characters", what, maxName)
	case strings.ContainsFunc(s, func(c rune) bool { return !unicode.IsPrint(c) }):
		return fmt.Errorf("%s has characters that can't be seen", what)
	}
	return nil
}

func validID(what, s string) error {
	if len(s) > maxID {
		return fmt.Errorf("%s has more than %d bytes", what, maxID)
	}
	return nil
}
