package refservices

import (
	"errors"
	"strings"

	"millrace/dbasync"
	"millrace/engine"
	"millrace/services"
)

type credentials struct {
	Username string `json:"username"`
	Password string `json:"password"`
}

// Validate checks the lengths, in bytes.
func (c *credentials) Validate() error {
	switch {
	case len(c.Username) < 1 || len(c.Username) > 64:
		return errors.New("username must be 1 to 64 bytes")
	case len(c.Password) < 1 || len(c.Password) > 1024:
		return errors.New("password must be 1 to 1,024 bytes")
	case strings.ContainsRune(c.Username, 0):
		return errors.New("username must not contain U+0000")
	}
	return nil
}

type registerReply struct {
	UserID int64 `json:"user_id"`
}

type loginReply struct {
	UserID int64  `json:"user_id"`
	Token  string `json:"token"`
}

const (
	insertUser = `insert into users (name, password) values ($1, $2) on conflict (name) do nothing returning id`
	selectUser = `select id, password from users where name = $1`
)

// users registers 4/1 and 4/2. Both are refused before their body is looked at
// while there is no database.
func (x *Services) users() error {
	x.Use(hRegister, hLogin, func(next services.Next) services.Next {
		return func(ctx *services.Context) error {
			if x.cfg.DB == nil || !x.cfg.Ready() {
				return services.Errorf(engine.CodeUnavailable, "no database")
			}
			return next(ctx)
		}
	})
	return errors.Join(
		services.Register(x.Controller, hRegister, services.Stages[credentials, registerReply]{Handle: x.register},
			services.Name("register"), services.Blocking()),
		services.Register(x.Controller, hLogin, services.Stages[credentials, loginReply]{Handle: x.login},
			services.Name("login"), services.Blocking()))
}

// register hashes, then inserts. The session's other requests go on meanwhile.
func (x *Services) register(ctx *services.Context, req *credentials, _ *registerReply) error {
	reply, s, name, password := ctx.Defer(), ctx.Session(), req.Username, req.Password
	x.hasher.enter()
	x.hasher.run(func() {
		hash := hashPassword(password)
		done := func(r dbasync.QueryResult) {
			var id int64
			err := r.Scan(&id)
			switch {
			case errors.Is(err, dbasync.ErrNoRows):
				reply.Done(nil, services.Errorf(engine.CodeConflict, "the name is taken"))
			case err != nil:
				reply.Done(nil, queryError(r))
			default:
				reply.Done(registerReply{id}, nil)
			}
		}
		if err := x.cfg.DB.Query(ctxBackground, s, done, dbasync.Stmt{SQL: insertUser}, name, hash); err != nil {
			reply.Done(nil, err)
		}
	})
	return nil
}

// login reads, then checks the password: against a hash of nothing when there
// is no such user, so that the answer takes as long.
func (x *Services) login(ctx *services.Context, req *credentials, _ *loginReply) error {
	reply, s, password := ctx.Defer(), ctx.Session(), req.Password
	done := func(r dbasync.QueryResult) {
		var id int64
		var hash string
		err := r.Scan(&id, &hash)
		if err != nil && !errors.Is(err, dbasync.ErrNoRows) {
			x.hasher.leave()
			reply.Done(nil, queryError(r))
			return
		}
		found := err == nil
		if !found {
			hash = nobody
		}
		x.hasher.run(func() {
			if !checkPassword(hash, password) || !found {
				reply.Done(nil, services.Errorf(engine.CodeUnauthorised, "wrong name or password"))
				return
			}
			reply.Done(loginReply{id, x.tokens.make(id)}, nil)
		})
	}
	x.hasher.enter()
	err := x.cfg.DB.Query(ctxBackground, s, done, dbasync.Stmt{SQL: selectUser, ReadOnly: true}, req.Username)
	if err != nil {
		x.hasher.leave()
	}
	return err
}

// queryError says what a failed query means to the peer.
func queryError(r dbasync.QueryResult) error {
	if r.Outcome == dbasync.SQLError || r.Err == nil || errors.Is(r.Err, dbasync.ErrTimeout) {
		return r.Err
	}
	return services.Errorf(engine.CodeUnavailable, "%v: %w", r.Outcome, r.Err)
}
