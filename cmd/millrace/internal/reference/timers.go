package reference

import (
	"context"
	"errors"
	"math"
	"net"
	"strconv"
	"time"

	"millrace/engine"
	"millrace/internal/seldom"
	"millrace/services"
	"millrace/timerwheel"
)

// The handles of Timers.
const (
	timers = 2 // Main of all of them

	subSetTimer  = 1
	subKillTimer = 2
	subKillAll   = 3
	subFired     = 4 // server to client only
)

// sessionTimers are the timers of one session and their common callback. Delay events are not among
// them: the client did not choose their ids, and 2/3 does not kill them.
type sessionTimers struct {
	*timerwheel.Set
	fire func(timerwheel.Firing)
}

func newSessionTimers(service *timerwheel.Service, s *engine.Session, dropped *seldom.Line) *sessionTimers {
	set := service.For(s.Submitter(engine.EventTimer))
	input := s.InputContext()
	context.AfterFunc(input, func() { set.Close() }) // also while the last request still runs
	return &sessionTimers{set, func(f timerwheel.Firing) {
		if input.Err() != nil {
			return // the peer sent a FIN, and Close will follow
		}
		var buf [80]byte
		body := strconv.AppendUint(append(buf[:0], `{"id":`...), uint64(f.ID), 10)
		body = strconv.AppendUint(append(body, `,"n":`...), f.N, 10)
		body = strconv.AppendInt(append(body, `,"left":`...), f.Left, 10)
		if err := s.Push(timers, subFired, append(body, '}')); err != nil && !errors.Is(err, net.ErrClosed) {
			if held, ok := dropped.Due(); ok {
				s.Logger().Warn("2/4 dropped", "err", err, "omitted", held)
			}
		}
	}}
}

// timersOf returns the session's timers, or nil. Call it in the session's order only.
func timersOf(s *engine.Session) *sessionTimers {
	t, _ := s.Value().(*sessionTimers)
	return t
}

// errTimers: they fire here.
var errTimers = errors.New("reference: a session with timers stays on its node")

// Handoff has sessions be taken over by other nodes, but those that have timers. Nothing else
// is kept of a session here.
func Handoff(c *services.Controller) {
	c.Handoff(func(s *engine.Session) ([]byte, error) {
		if t := timersOf(s); t != nil && t.Len() > 0 {
			return nil, errTimers
		}
		return nil, nil
	}, func(*engine.Session, []byte) error { return nil })
}

type setTimerRequest struct {
	ID     uint32 `json:"id"`
	MS     int64  `json:"ms"`
	Repeat int64  `json:"repeat"`
}

// maxRepeat fits an int everywhere.
const maxRepeat = min(math.MaxInt, math.MaxUint32)

// Validate checks the ranges.
func (r *setTimerRequest) Validate() error {
	if r.Repeat < 0 || r.Repeat > maxRepeat {
		return errors.New("repeat must be from 0 to " + strconv.Itoa(maxRepeat))
	}
	return validMS(r.MS)
}

type timerReply struct {
	ID uint32 `json:"id"`
}

type timerRequest struct {
	ID uint32 `json:"id"`
}

type killReply struct {
	ID     uint32 `json:"id"`
	Killed bool   `json:"killed"`
}

type killAllReply struct {
	Killed int `json:"killed"`
}

// Timers registers 2/1 to 2/3: each session has its own timers, which fire in its order and end
// with it, or with the peer's FIN.
func Timers(c *services.Controller, service *timerwheel.Service) error {
	var dropped seldom.Line
	c.OnClose(func(s *engine.Session, _ engine.Reason) {
		if t := timersOf(s); t != nil {
			t.Close()
		}
	})
	return errors.Join(
		services.Register(c, services.Handle(timers, subSetTimer), services.Stages[setTimerRequest, timerReply]{
			Handle: func(ctx *services.Context, req *setTimerRequest, res *timerReply) error {
				res.ID = req.ID
				return setTimer(service, ctx.Session(), req, &dropped)
			},
		}, services.Name("set timer")),
		services.Register(c, services.Handle(timers, subKillTimer), services.Stages[timerRequest, killReply]{Handle: killTimer}, services.Name("kill timer")),
		services.Register(c, services.Handle(timers, subKillAll), services.Stages[services.None, killAllReply]{Handle: killAll}, services.Name("kill all timers")))
}

func setTimer(service *timerwheel.Service, s *engine.Session, req *setTimerRequest, dropped *seldom.Line) error {
	t := timersOf(s)
	if t == nil {
		t = newSessionTimers(service, s, dropped)
		s.SetValue(t)
	}
	err := t.SetTimer(timerwheel.TimerID(req.ID), time.Duration(req.MS)*time.Millisecond, int(req.Repeat), t.fire)
	switch {
	case errors.Is(err, timerwheel.ErrTooManyTimers):
		return &services.Error{Code: engine.CodeLimit, Text: "too many timers", Err: err}
	case errors.Is(err, timerwheel.ErrSetClosed):
		return nil // the peer's FIN came first and would have ended the timer; the request still gets its answer
	}
	return err
}

func killTimer(ctx *services.Context, req *timerRequest, res *killReply) error {
	t := timersOf(ctx.Session())
	*res = killReply{req.ID, t != nil && t.KillTimer(timerwheel.TimerID(req.ID))}
	return nil
}

func killAll(ctx *services.Context, _ *services.None, res *killAllReply) error {
	if t := timersOf(ctx.Session()); t != nil {
		res.Killed = t.KillAllTimers()
	}
	return nil
}
