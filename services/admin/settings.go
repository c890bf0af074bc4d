package admin

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"millrace/engine"
)

// config is GET /config.
func config(r *request) (any, error) { return r.d.cfg.Settings.All(), nil }

// setConfig is POST /config, with the settings as a JSON object, or as ?name=value.
func setConfig(r *request) (any, error) {
	var body map[string]any
	if err := r.object(&body); err != nil {
		return nil, err
	}
	values := map[string]string{}
	for name, v := range body {
		switch v := v.(type) {
		case string:
			values[name] = v
		case float64:
			values[name] = strconv.FormatFloat(v, 'f', -1, 64)
		case bool:
			values[name] = strconv.FormatBool(v)
		default:
			return nil, badRequest("%s: must be a text, a number or true or false", name)
		}
	}
	for name, v := range r.URL.Query() {
		if _, twice := values[name]; twice {
			return nil, badRequest("%.40s: given twice", name)
		}
		values[name] = v[0]
	}
	if len(values) == 0 {
		return nil, badRequest("no setting: send a JSON object of names and values")
	}
	if err := r.d.cfg.Settings.Set(values); err != nil {
		return nil, badRequest("%s", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	for name, v := range values {
		r.d.cfg.Logger.Info("admin: setting changed", "name", name, "value", v)
	}
	return map[string]any{"set": values}, nil
}

// Adjust changes settings that engine.Server.Adjust supports, and the dispatch of handles, by the
// names of flags: "max-conns", "idle-timeout", and "handle-dispatch" as MAIN/SUB=MODE. Sizes are
// bytes, durations as in Go; off or 0 turns a timeout off. Either all of it is set, or none and an
// error is returned. It is meant for implementations of Settings.
func Adjust(srv *engine.Server, values map[string]string) error {
	var errs []error
	var dispatch []func()
	change := func(a *engine.Adjustable) {
		for name, v := range values {
			var err error
			switch name {
			case "max-conns":
				a.MaxConns, err = readInt(v)
			case "max-conns-per-ip":
				a.MaxConnsPerIP, err = readInt(v)
			case "memory-budget":
				a.MemoryBudget, err = readInt(v)
			case "first-frame-timeout":
				a.FirstFrameTimeout, err = readDuration(v)
			case "frame-timeout":
				a.FrameTimeout, err = readDuration(v)
			case "idle-timeout":
				a.IdleTimeout, err = readDuration(v)
			case "heartbeat":
				a.Heartbeat, err = readDuration(v)
			case "handle-dispatch":
				var fn func()
				fn, err = readDispatch(srv, v)
				dispatch = append(dispatch, fn)
			default:
				err = errors.New("can't be changed while the server runs; these can: " + strings.Join(AdjustNames(), ", "))
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("%s %q: %w", name, v, err))
			}
		}
	}
	trial := srv.Adjustable()
	if change(&trial); len(errs) > 0 {
		return errors.Join(errs...)
	}
	dispatch = nil
	if err := srv.Adjust(change); err != nil {
		return err
	}
	for _, fn := range dispatch {
		fn()
	}
	return nil
}

// AdjustNames returns the names that Adjust accepts.
func AdjustNames() []string {
	return []string{"max-conns", "max-conns-per-ip", "memory-budget", "first-frame-timeout", "frame-timeout", "idle-timeout", "heartbeat", "handle-dispatch"}
}

func readInt(s string) (int, error) {
	if s == "off" {
		return 0, nil
	}
	unit := 1
	for name, n := range map[string]int{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if rest, ok := strings.CutSuffix(s, name); ok {
			s, unit = rest, n
			break
		}
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 || n > int(^uint(0)>>1)/unit {
		return 0, errors.New("must be a whole number, or bytes such as 64KiB or 1MiB")
	}
	return n * unit, nil
}

func readDuration(s string) (time.Duration, error) {
	if s == "off" || s == "0" {
		return 0, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, errors.New("must be a duration such as 1500ms, 10s or 2m, or off")
	}
	return d, nil
}

// readDispatch reads MAIN/SUB=MODE.
func readDispatch(srv *engine.Server, s string) (func(), error) {
	handle, mode, _ := strings.Cut(s, "=")
	main, sub, _ := strings.Cut(handle, "/")
	m, err1 := strconv.ParseUint(main, 10, 16)
	b, err2 := strconv.ParseUint(sub, 10, 16)
	var d engine.Dispatch
	if err := errors.Join(err1, err2, d.UnmarshalText([]byte(mode))); err != nil {
		return nil, errors.New("must be MAIN/SUB=MODE with a mode of adaptive, ordered or inline, such as 1/4=ordered")
	}
	return func() { srv.SetDispatch(uint32(m)<<16|uint32(b), d) }, nil
}

// serverSettings are the Settings of a server without flags.
type serverSettings struct{ srv *engine.Server }

func (s serverSettings) All() map[string]any {
	a := s.srv.Adjustable()
	return map[string]any{
		"max-conns": a.MaxConns, "max-conns-per-ip": a.MaxConnsPerIP, "memory-budget": a.MemoryBudget,
		"first-frame-timeout": a.FirstFrameTimeout.String(), "frame-timeout": a.FrameTimeout.String(),
		"idle-timeout": a.IdleTimeout.String(), "heartbeat": a.Heartbeat.String(),
	}
}

func (s serverSettings) Set(values map[string]string) error { return Adjust(s.srv, values) }
