package reference

import (
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

// Timers registers 2/1 to 2/3: each session has timers of its own, which fire in its
// order and end with it.
func Timers(r *Router, service *timerwheel.Service) {
	sets := newPerSession(r, func(set *timerwheel.Set) { set.Close() })
	r.OnFin(func(s *engine.Session) {
		if set := sets.find(s); set != nil {
			set.Close()
		}
	})
	r.Handle(timers, subSetTimer, func(s *engine.Session, p codec.Packet) {
		set := sets.get(s, func() *timerwheel.Set { return service.For(s) })
		setTimer(s, p, set)
	})
	r.Handle(timers, subKillTimer, func(s *engine.Session, p codec.Packet) {
		var id uint64
		if !Decode(s, p, strictjson.Uint("id", &id, math.MaxUint32)) {
			return
		}
		set := sets.find(s)
		killed := set != nil && set.KillTimer(timerwheel.TimerID(id))
		body := strconv.AppendUint([]byte(`{"id":`), id, 10)
		Answer(s, p, append(strconv.AppendBool(append(body, `,"killed":`...), killed), '}'))
	})
	r.Handle(timers, subKillAll, func(s *engine.Session, p codec.Packet) {
		killed := 0
		if set := sets.find(s); set != nil {
			killed = set.KillAllTimers()
		}
		Answer(s, p, append(strconv.AppendInt([]byte(`{"killed":`), int64(killed), 10), '}'))
	})
}

func setTimer(s *engine.Session, p codec.Packet, set *timerwheel.Set) {
	var id uint64
	var ms, repeat int64
	if !Decode(s, p, strictjson.Uint("id", &id, math.MaxUint32), strictjson.Int("ms", &ms, 1, math.MaxUint32),
		strictjson.Int("repeat", &repeat, 0, math.MaxUint32)) {
		return
	}
	err := set.SetTimer(timerwheel.TimerID(id), time.Duration(ms)*time.Millisecond, int(repeat), func(f timerwheel.Firing) {
		body := strconv.AppendUint([]byte(`{"id":`), id, 10)
		body = strconv.AppendUint(append(body, `,"n":`...), f.N, 10)
		body = strconv.AppendInt(append(body, `,"left":`...), f.Left, 10)
		if err := s.Push(timers, subFired, append(body, '}')); err != nil {
			dropped(s, p, err)
		}
	})
	switch {
	case errors.Is(err, timerwheel.ErrTooManyTimers):
		Refuse(s, p, engine.CodeLimit, "too many timers")
	case errors.Is(err, timerwheel.ErrSetClosed):
		// the session is going: nobody is left to answer
	case err != nil:
		Refuse(s, p, engine.CodeInternal, "the timer could not be set")
		s.Logger().Error("timer", "err", err)
	default:
		Answer(s, p, append(strconv.AppendUint([]byte(`{"id":`), id, 10), '}'))
	}
}
