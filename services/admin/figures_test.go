package admin_test

import (
	"math"

	"millrace/codec"
	"millrace/timerwheel"
)

type (
	packet      = codec.Packet
	timerFiring = timerwheel.Firing
)

func exp2(x float64) float64 { return math.Exp2(x) }

// outcome is a map's key as dbasync.Outcome is one.
type outcome int

func (o outcome) String() string { return [...]string{"not_run", "done"}[o] }

// dbFigures is a snapshot as a database's.
func dbFigures() any {
	return struct {
		Accepted uint64
		Ended    map[outcome]uint64
		LanesUp  int
	}{9, map[outcome]uint64{0: 2, 1: 7}, 3}
}
