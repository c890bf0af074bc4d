package admin

import (
	"errors"
	"net/http"

	"millrace/engine"
	"millrace/services/admin/live"
)

// maxRate is the highest rate of a drain that may be requested, in sessions per second.
const maxRate = 1 << 24

// drain is POST /drain, with ?rate=N or {"rate":N}.
func drain(r *request) (any, error) {
	rate, err := r.number("rate", 0)
	if err != nil {
		return nil, err
	}
	var body struct {
		Rate *int `json:"rate"`
	}
	if err := r.object(&body); err != nil {
		return nil, err
	}
	if body.Rate != nil {
		if rate != 0 {
			return nil, badRequest("rate: given twice")
		}
		if rate = *body.Rate; rate < 1 {
			return nil, badRequest("rate=%d: must be a whole number, 1 or more", rate)
		}
	}
	if rate > maxRate {
		return nil, badRequest("rate=%d: must be at most %d", rate, maxRate)
	}
	err = r.d.cfg.Server.Drain(r.d.cfg.DrainTimeout, rate)
	switch {
	case err == nil:
		r.d.cfg.Logger.Info("admin: drain begun", "rate", rate, "timeout", r.d.cfg.DrainTimeout)
		r.d.Event(live.Info, "drain", "begun by an operator")
	case !errors.Is(err, engine.ErrDraining):
		return nil, &refusal{http.StatusConflict, "the server is not running"}
	}
	return map[string]any{"draining": true, "begun": err == nil}, nil
}

// undrain is POST /undrain.
func undrain(r *request) (any, error) {
	if err := r.object(new(struct{})); err != nil {
		return nil, err
	}
	srv := r.d.cfg.Server
	was := srv.Draining()
	if err := srv.Undrain(); err != nil {
		return nil, &refusal{http.StatusConflict, "the server is stopping: this can't be cancelled"}
	}
	if was {
		r.d.cfg.Logger.Info("admin: drain cancelled")
		r.d.Event(live.Info, "drain", "cancelled by an operator")
	}
	return map[string]any{"draining": srv.Draining()}, nil
}
