package main

import (
	"encoding/json"
	"errors"
	"log/slog"

	"github.com/jackc/pgx/v5"

	"millrace/dbasync"
	"millrace/engine"
	"millrace/services"
	"millrace/services/events"
)

// The handles, all of Main 1.
const (
	subScore = 1
	subTop   = 2
	subWatch = 3
	subBoard = 4 // from the server: the first topWatched, when they have changed
)

const topWatched = 10

// The statement may run again if the connection to the database breaks before the answer. The highest
// score is kept, however often and in whatever order scores arrive.
var (
	score = dbasync.Stmt{Retry: true, SQL: `
		insert into score (player, points) values ($1, $2)
		on conflict (player) do update set
			at = case when excluded.points > score.points then excluded.at else score.at end,
			points = greatest(score.points, excluded.points)
		returning points, points = $2 as best`}
	top = dbasync.Stmt{ReadOnly: true, SQL: `
		select rank() over (order by points desc) as rank, player, points
		from score order by points desc, at limit $1`}
)

// board answers requests and notifies watchers. Query results are delivered in the order of the session
// or of the room; no goroutine waits for them.
type board struct {
	watchers *services.Rooms[string, *watch]
}

// watch is the state of the room of all watchers.
type watch struct {
	asking, again bool
}

type room = services.Room[string, *watch]

func newBoard() (*board, error) {
	watchers, err := services.NewRooms(services.RoomsConfig[string, *watch]{
		Name: "board", Idle: engine.Off,
		New: func(*room) (*watch, error) { return &watch{}, nil },
	})
	return &board{watchers}, err
}

func (b *board) register(to *services.Controller) error {
	h := func(sub uint16) uint32 { return services.Handle(1, sub) }
	return errors.Join(
		services.Register(to, h(subScore), services.Stages[scoreRequest, scoreReply]{Handle: b.score}, services.Name("score")),
		services.Register(to, h(subTop), services.Stages[topRequest, standing]{Handle: b.top}, services.Name("top")),
		services.Register(to, h(subWatch), services.Stages[services.None, standing]{Handle: b.watch}, services.Name("watch")))
}

type scoreRequest struct {
	Player string `json:"player"`
	Points int64  `json:"points"`
}

func (r *scoreRequest) Validate() error {
	if len(r.Player) < 1 || len(r.Player) > 64 || r.Points < 0 {
		return errors.New("player has 1 to 64 bytes, points are 0 or more")
	}
	return nil
}

type scoreReply struct {
	Points int64 `json:"points"` // the player's best
	Best   bool  `json:"best"`   // this is it
}

func (b *board) score(ctx *services.Context, req *scoreRequest, res *scoreReply) error {
	reply, db := ctx.Defer(), events.DB(ctx)
	return db.Query(ctx.Lasting(), ctx.Session(), func(r dbasync.QueryResult) {
		err := r.Scan(&res.Points, &res.Best)
		if err == nil && res.Best {
			b.changed(db)
		}
		reply.Done(nil, err)
	}, score, req.Player, req.Points)
}

type topRequest struct {
	N int `json:"n"`
}

func (r *topRequest) Validate() error {
	if r.N < 1 || r.N > 100 {
		return errors.New("n is 1 to 100")
	}
	return nil
}

type standing struct {
	Rows []row `json:"rows"`
}

type row struct {
	Rank   int64  `json:"rank"`
	Player string `json:"player"`
	Points int64  `json:"points"`
}

func (b *board) top(ctx *services.Context, req *topRequest, res *standing) error {
	reply := ctx.Defer()
	return events.DB(ctx).Query(ctx.Lasting(), ctx.Session(), func(r dbasync.QueryResult) {
		var err error
		res.Rows, err = dbasync.Collect(r, pgx.RowToStructByPos[row])
		reply.Done(nil, err)
	}, top, req.N)
}

// watch answers when the session is in the room, so that it misses no change after the answer.
func (b *board) watch(ctx *services.Context, _ *services.None, res *standing) error {
	reply, s, db := ctx.Defer(), ctx.Session(), events.DB(ctx)
	return b.watchers.Post("all", func(r *room) {
		if _, err := r.Join(s); err != nil {
			reply.Done(nil, err)
			return
		}
		err := db.Query(r.Context(), r, func(q dbasync.QueryResult) {
			rows, err := dbasync.Collect(q, pgx.RowToStructByPos[row])
			reply.Done(standing{rows}, err)
		}, top, topWatched)
		if err != nil {
			reply.Done(nil, err)
		}
	})
}

// changed notifies the watchers. However many scores arrive, one query runs at a time.
func (b *board) changed(db *dbasync.DB) {
	if err := b.watchers.Post("all", func(r *room) { r.State.tell(r, db) }); err != nil {
		slog.Warn("leaderboard: watchers could not be notified", "err", err)
	}
}

// tell runs in the room.
func (w *watch) tell(r *room, db *dbasync.DB) {
	if w.asking {
		w.again = true
		return
	}
	if r.Len() == 0 {
		return
	}
	err := db.Query(r.Context(), r, func(q dbasync.QueryResult) {
		w.asking = false
		rows, err := dbasync.Collect(q, pgx.RowToStructByPos[row])
		var body []byte
		if err == nil {
			body, err = json.Marshal(standing{rows})
		}
		if err != nil {
			slog.Warn("leaderboard: watchers could not be notified", "err", err)
		}
		for s := range r.Members() {
			if err == nil {
				_ = s.PushKeyed(subBoard, 1, subBoard, body) // only the newest is of use
			}
		}
		if w.again {
			w.again = false
			w.tell(r, db)
		}
	}, top, topWatched)
	if err != nil {
		slog.Warn("leaderboard: watchers could not be notified", "err", err)
		return
	}
	w.asking = true
}
