package admin

import (
	"fmt"
	"net/http"
	"time"
)

// deadAfter is how long a loop may fail to tick before the process is unhealthy. A callback that
// blocks does not count: another goroutine then does the loop's work.
const deadAfter = 10 * time.Second

// Health is the answer of /healthz.
type Health struct {
	Alive   bool     `json:"alive"`
	Reasons []string `json:"reasons"`
}

// Readiness is the answer of /readyz.
type Readiness struct {
	Ready   bool     `json:"ready"`
	Reasons []string `json:"reasons"`
}

// Alive returns the reasons to restart the process; none if it is healthy. External dependencies do
// not count: an unavailable database must not restart every node.
func (d *Door) Alive() (reasons []string) {
	srv := d.cfg.Server
	if err := srv.Err(); err != nil {
		reasons = append(reasons, err.Error())
	}
	for i, l := range srv.Stats().Loops {
		if l.Late >= deadAfter {
			reasons = append(reasons, fmt.Sprintf("loop %d has not ticked for %v", i, l.Late.Round(time.Second)))
		}
	}
	return reasons
}

// Ready returns the reasons not to send clients here; none if the server is ready.
func (d *Door) Ready() (reasons []string) {
	srv := d.cfg.Server
	switch {
	case srv.Draining():
		reasons = append(reasons, "draining")
	case !srv.Running():
		reasons = append(reasons, "the server is not running")
	}
	for _, c := range d.cfg.Checks {
		if err := c.Ready(); err != nil {
			reasons = append(reasons, c.Name+": "+err.Error())
		}
	}
	return reasons
}

// Healthy implements services.Checker.
func (d *Door) Healthy() error {
	if why := d.Alive(); len(why) > 0 {
		return fmt.Errorf("admin: %s", why[0])
	}
	return nil
}

func healthz(r *request) (any, error) {
	why := r.d.Alive()
	r.answer(statusOf(why), Health{len(why) == 0, append([]string{}, why...)})
	return nil, nil
}

func readyz(r *request) (any, error) {
	why := r.d.Ready()
	r.answer(statusOf(why), Readiness{len(why) == 0, append([]string{}, why...)})
	return nil, nil
}

func statusOf(reasons []string) int {
	if len(reasons) > 0 {
		return http.StatusServiceUnavailable
	}
	return http.StatusOK
}
