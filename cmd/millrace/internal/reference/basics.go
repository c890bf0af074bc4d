package reference

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"strconv"
	"time"

	"millrace/cmd/millrace/internal/strictjson"
	"millrace/codec"
	"millrace/engine"
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

// lookUp is how often a sleeping handler looks whether its session is still there.
const lookUp = 100 * time.Millisecond

// Basics registers 1/1 to 1/9: echo, broadcast, whoami, sleep, groups and, with unsafe,
// the panic.
func Basics(r *Router, unsafe bool) {
	r.Handle(basics, subEcho, func(s *engine.Session, p codec.Packet) { Answer(s, p, p.Body) })
	r.Handle(basics, subBroadcast, broadcast)
	r.Handle(basics, subWhoami, whoami)
	r.Blocking(basics, subSleep, sleep)
	r.Handle(basics, subJoin, join)
	r.Handle(basics, subLeave, leave)
	r.Handle(basics, subGroupSend, groupSend)
	if unsafe {
		r.Handle(basics, subPanic, func(*engine.Session, codec.Packet) { panic("1/9: a panic on purpose") })
	}
}

// broadcast sends p to every session; the sender's copy is its answer.
func broadcast(s *engine.Session, p codec.Packet) {
	if err := s.Broadcast(p.Main, p.Sub, p.Body); err != nil {
		refuse(s, p, err)
	}
}

type whoamiReply struct {
	Index       uint32 `json:"index"`
	Round       uint32 `json:"round"`
	Addr        string `json:"addr"`
	ConnectedAt string `json:"connected_at"`
}

func whoami(s *engine.Session, p codec.Packet) {
	answer(s, p, whoamiReply{
		Index: s.Index(), Round: s.Round(), Addr: s.RemoteAddr().String(),
		ConnectedAt: s.ConnectedAt().Format(time.RFC3339Nano),
	})
}

// sleep blocks its worker, which is what it is for. It ends early when nobody is left
// to answer, so that clients that leave don't use up the spare workers.
func sleep(s *engine.Session, p codec.Packet) {
	var ms int64
	if !Decode(s, p, strictjson.Int("ms", &ms, 1, math.MaxUint32)) {
		return
	}
	until := time.Now().Add(time.Duration(ms) * time.Millisecond)
	for left := time.Until(until); left > 0 && s.Connected(); left = time.Until(until) {
		time.Sleep(min(left, lookUp))
	}
	answerInt(s, p, `{"slept_ms":`, ms)
}

func join(s *engine.Session, p codec.Packet) {
	membership(s, p, (*engine.Group).Join)
}

func leave(s *engine.Session, p codec.Packet) {
	membership(s, p, (*engine.Group).Leave)
}

func membership(s *engine.Session, p codec.Packet, do func(*engine.Group, *engine.Session) (int, error)) {
	var name string
	if !Decode(s, p, strictjson.String("group", &name)) || !groupName(s, p, name) {
		return
	}
	n, err := do(s.Server().Group(name), s)
	if err != nil {
		refuse(s, p, err)
		return
	}
	answerInt(s, p, `{"members":`, int64(n))
}

type groupPush struct {
	Group string `json:"group"`
	From  uint32 `json:"from"`
	Round uint32 `json:"round"`
	Data  string `json:"data"`
}

func groupSend(s *engine.Session, p codec.Packet) {
	var m groupPush
	if !Decode(s, p, strictjson.String("group", &m.Group), strictjson.String("data", &m.Data)) || !groupName(s, p, m.Group) {
		return
	}
	m.From, m.Round = s.Index(), s.Round()
	n, err := s.SendGroup(s.Server().Group(m.Group), basics, subGroupPush, encode(m))
	if err != nil {
		refuse(s, p, err)
		return
	}
	answerInt(s, p, `{"sent":`, int64(n))
}

func groupName(s *engine.Session, p codec.Packet, name string) bool {
	if len(name) > maxGroupName {
		Refuse(s, p, engine.CodeLimit, "a group's name has at most "+strconv.Itoa(maxGroupName)+" bytes")
		return false
	}
	return true
}

// refuse answers p with the ERROR that err stands for.
func refuse(s *engine.Session, p codec.Packet, err error) {
	switch {
	case errors.Is(err, engine.ErrClosed): // nobody is left to tell
	case errors.Is(err, engine.ErrLimit):
		Refuse(s, p, engine.CodeLimit, "too many groups")
	case errors.Is(err, engine.ErrFrameTooLarge):
		Refuse(s, p, engine.CodeLimit, "what would be sent does not fit a frame")
	case errors.Is(err, engine.ErrBusy):
		Refuse(s, p, engine.CodeOverloaded, "too much waits to be sent; try again later")
	default:
		Refuse(s, p, engine.CodeInternal, "not sent")
		s.Logger().Error("not sent", "main", p.Main, "sub", p.Sub, "err", err)
	}
}

// answerInt answers p with an object whose only field's value is n; open is what
// stands before it.
func answerInt(s *engine.Session, p codec.Packet, open string, n int64) {
	var buf [64]byte
	Answer(s, p, append(strconv.AppendInt(append(buf[:0], open...), n, 10), '}'))
}

func answer(s *engine.Session, p codec.Packet, v any) { Answer(s, p, encode(v)) }

// encode leaves <, > and & as they are: six bytes for each would make a text that fits
// a frame into one that doesn't.
func encode(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic("reference: " + err.Error()) // v is one of our own structs
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
