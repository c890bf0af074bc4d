package main

import (
	"context"
	"errors"
	"strings"

	"github.com/jackc/pgx/v5"

	"millrace/dbasync"
	"millrace/engine"
	"millrace/services"
	"millrace/services/events"
)

// The handles, all of Main 1.
const (
	subAdd    = 1
	subResult = 2
	subRun    = 3 // not over the wire: the job itself
)

// jobs runs jobs later, each at least once, in whichever process claims it first. A job stores its result
// under its key, so that a second run changes nothing.
type jobs struct {
	node string
	work func(ctx context.Context, text string) (string, error)
}

func (j *jobs) register(to *services.Controller) error {
	h := func(sub uint16) uint32 { return services.Handle(1, sub) }
	return errors.Join(
		services.Register(to, h(subAdd), services.Stages[job, added]{Handle: j.add}, services.Name("add")),
		services.Register(to, h(subResult), services.Stages[asked, result]{Handle: j.result}, services.Name("result")),
		services.Register(to, h(subRun), services.Stages[job, services.None]{Handle: j.run}, services.Name("run"), services.Internal(), services.Blocking()))
}

type job struct {
	Key     string  `json:"key"`
	Seconds float64 `json:"seconds"` // from now
	Text    string  `json:"text"`
}

// Validate is called before the handler.
func (j *job) Validate() error {
	if len(j.Key) < 1 || len(j.Key) > 100 || len(j.Text) > 1000 {
		return errors.New("key has 1 to 100 bytes, text up to 1000")
	}
	return nil
}

type added struct {
	Added bool `json:"added"` // false: a job of that key waits already
}

// add answers when the job is in the database. From then on it will run, even if this process ends.
func (j *jobs) add(ctx *services.Context, req *job, _ *added) error {
	reply := ctx.Defer()
	_, err := services.After(ctx, req.Seconds, services.Handle(1, subRun), *req, services.Durable(req.Key, func(stored bool, err error) {
		reply.Done(added{stored}, err)
	}))
	return err
}

// run runs a job on a worker. After an error the job is run again, after a pause that doubles.
func (j *jobs) run(ctx *services.Context, req *job, _ *services.None) error {
	out, err := j.work(ctx, req.Text)
	if err != nil {
		return err
	}
	_, err = events.DB(ctx).Blocking().Exec(ctx, "insert into done (key, result, node) values ($1, $2, $3) on conflict do nothing", req.Key, out, j.node)
	return err
}

type asked struct {
	Key string `json:"key"`
}

type result struct {
	Result string `json:"result"`
	Node   string `json:"node"` // that did it
}

func (j *jobs) result(ctx *services.Context, req *asked, res *result) error {
	reply := ctx.Defer()
	return events.DB(ctx).Query(ctx.Lasting(), ctx.Session(), func(r dbasync.QueryResult) {
		err := r.Scan(&res.Result, &res.Node)
		if errors.Is(err, pgx.ErrNoRows) {
			err = services.Errorf(engine.CodeNotFound, "not done")
		}
		reply.Done(nil, err)
	}, dbasync.Stmt{SQL: "select result, node from done where key = $1", ReadOnly: true}, req.Key)
}

// shout is what the jobs of this example do.
func shout(_ context.Context, text string) (string, error) { return strings.ToUpper(text), nil }
