package reference

import (
	"context"
	"errors"
	"math"
	"strconv"
	"time"

	"millrace/cmd/millrace/internal/strictjson"
	"millrace/codec"
	"millrace/engine"
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

// sessionTimers are the timers of one session and what they all do.
type sessionTimers struct {
	*timerwheel.Set
	fire func(timerwheel.Firing)
}

func newSessionTimers(service *timerwheel.Service, s *engine.Session) *sessionTimers {
	set := service.For(s)
	context.AfterFunc(s.InputContext(), func() { set.Close() }) // also while the last request still runs
	return &sessionTimers{set, func(f timerwheel.Firing) {
		var buf [80]byte
		body := strconv.AppendUint(append(buf[:0], `{"id":`...), uint64(f.ID), 10)
		body = strconv.AppendUint(append(body, `,"n":`...), f.N, 10)
		body = strconv.AppendInt(append(body, `,"left":`...), f.Left, 10)
		if err := s.Push(timers, subFired, append(body, '}')); err != nil {
			dropped(s, codec.Packet{Main: timers, Sub: subFired}, err)
		}
	}}
}

// Timers registers 2/1 to 2/3: each session has timers of its own, which fire in its
// order and end with it.
func Timers(r *Router, service *timerwheel.Service) {
	sets := newPerSession(r, func(t *sessionTimers) { t.Close() })
	end := func(s *engine.Session) {
		if t := sets.find(s); t != nil {
			t.Close()
		}
	}
	r.OnFin(end)
	r.Handle(timers, subSetTimer, func(s *engine.Session, p codec.Packet) {
		setTimer(s, p, sets.get(s, func() *sessionTimers { return newSessionTimers(service, s) }))
	})
	r.Handle(timers, subKillTimer, func(s *engine.Session, p codec.Packet) {
		var id uint64
		if !Decode(s, p, strictjson.Uint("id", &id, math.MaxUint32)) {
			return
		}
		t := sets.find(s)
		killed := t != nil && t.KillTimer(timerwheel.TimerID(id))
		var buf [48]byte
		body := strconv.AppendUint(append(buf[:0], `{"id":`...), id, 10)
		Answer(s, p, append(strconv.AppendBool(append(body, `,"killed":`...), killed), '}'))
	})
	r.Handle(timers, subKillAll, func(s *engine.Session, p codec.Packet) {
		killed := 0
		if t := sets.find(s); t != nil {
			killed = t.KillAllTimers()
		}
		answerInt(s, p, `{"killed":`, int64(killed))
	})
}

func setTimer(s *engine.Session, p codec.Packet, t *sessionTimers) {
	var id uint64
	var ms, repeat int64
	if !Decode(s, p, strictjson.Uint("id", &id, math.MaxUint32), strictjson.Int("ms", &ms, 1, math.MaxUint32),
		strictjson.Int("repeat", &repeat, 0, min(math.MaxInt, math.MaxUint32))) {
		return
	}
	err := t.SetTimer(timerwheel.TimerID(id), time.Duration(ms)*time.Millisecond, int(repeat), t.fire)
	switch {
	case errors.Is(err, timerwheel.ErrTooManyTimers):
		Refuse(s, p, engine.CodeLimit, "too many timers")
	case errors.Is(err, timerwheel.ErrSetClosed):
		// the session is going: nobody is left to answer
	case err != nil:
		Refuse(s, p, engine.CodeInternal, "the timer could not be set")
		s.Logger().Error("timer", "err", err)
	default:
		answerInt(s, p, `{"id":`, int64(id))
	}
}
