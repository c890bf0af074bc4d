package refservices

import (
	"errors"
	"strings"

	"github.com/alexedwards/argon2id"

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

type tokenRequest struct {
	Token string `json:"token"`
}

type userReply struct {
	UserID   int64  `json:"user_id"`
	Username string `json:"username"`
}

type logoutReply struct {
	Revoked bool `json:"revoked"`
}

// A login token is valid for a day, and a user has at most 32 of them: the oldest is removed.
const (
	insertUser  = `insert into users (name, password) values ($1, $2) on conflict (name) do nothing returning id`
	selectUser  = `select id, password from users where name = $1`
	insertToken = `with old as (select hash from tokens where user_id = $1::bigint order by created desc offset 31 for update skip locked),
		gone as (delete from tokens where hash in (select hash from old))
		insert into tokens (hash, user_id, expires) values ($2, $1::bigint, now() + interval '1 day')`
	selectToken = `select u.id, u.name from tokens t join users u on u.id = t.user_id where t.hash = $1 and t.expires > now()`
	deleteToken = `delete from tokens where hash = $1 and expires > now() returning user_id`
)

var errToken = services.Errorf(engine.CodeUnauthorised, "no such token, or it has expired")

// users registers 4/1, 4/2, 4/7 and 4/8. Without a database all are refused before their body is
// decoded.
func (x *Services) users() error {
	needDB := func(next services.Next) services.Next {
		return func(ctx *services.Context) error {
			if x.cfg.DB == nil || !x.cfg.Ready() {
				return services.Errorf(engine.CodeUnavailable, "no database")
			}
			return next(ctx)
		}
	}
	x.Use(hRegister, hLogin, needDB)
	x.Use(hUser, hLogout, needDB)
	return errors.Join(
		services.Register(x.Controller, hRegister, services.Stages[credentials, registerReply]{Handle: x.register},
			services.Name("register"), services.Blocking()),
		services.Register(x.Controller, hLogin, services.Stages[credentials, loginReply]{Handle: x.login},
			services.Name("login"), services.Blocking()),
		services.Register(x.Controller, hUser, services.Stages[tokenRequest, userReply]{Handle: x.user}, services.Name("user of a token")),
		services.Register(x.Controller, hLogout, services.Stages[tokenRequest, logoutReply]{Handle: x.logout}, services.Name("logout")))
}

// register hashes the password, then inserts the user. The session's other requests are served
// meanwhile.
func (x *Services) register(ctx *services.Context, req *credentials, _ *registerReply) error {
	reply, s, name, password := ctx.Defer(), ctx.Session(), req.Username, req.Password
	return x.hasher.run(s, func() {
		hash, err := argon2id.CreateHash(password, cost)
		if err != nil {
			reply.Done(nil, err)
			return
		}
		x.query(s, reply, func(r dbasync.QueryResult) {
			var id int64
			switch err := r.Scan(&id); {
			case errors.Is(err, dbasync.ErrNoRows):
				reply.Done(nil, services.Errorf(engine.CodeConflict, "the name is taken"))
			case err != nil:
				reply.Done(nil, queryError(r))
			default:
				reply.Done(registerReply{id}, nil)
			}
		}, dbasync.Stmt{SQL: insertUser}, name, hash)
	})
}

// query calls DB.Query and answers reply with the error if the query is refused.
func (x *Services) query(s *engine.Session, reply *services.Reply, done func(dbasync.QueryResult), stmt dbasync.Stmt, args ...any) {
	if err := x.cfg.DB.Query(s.Context(), s.Submitter(engine.EventQuery), done, stmt, args...); err != nil {
		reply.Done(nil, err)
	}
}

// login reads the user, then checks the password: against a dummy hash if there is no such user, so
// that the answer takes as long.
func (x *Services) login(ctx *services.Context, req *credentials, _ *loginReply) error {
	reply, s, password := ctx.Defer(), ctx.Session(), req.Password
	done := func(r dbasync.QueryResult) {
		var id int64
		var hash string
		err := r.Scan(&id, &hash)
		if err != nil && !errors.Is(err, dbasync.ErrNoRows) {
			reply.Done(nil, queryError(r))
			return
		}
		found := err == nil
		if !found {
			hash = nobody()
		}
		err = x.hasher.run(s, func() {
			right, err := argon2id.ComparePasswordAndHash(password, hash)
			switch {
			case err != nil:
				reply.Done(nil, err)
			case !right || !found:
				reply.Done(nil, services.Errorf(engine.CodeUnauthorised, "wrong name or password"))
			default:
				x.loggedIn(s, reply, id)
			}
		})
		if err != nil {
			reply.Done(nil, err)
		}
	}
	x.query(s, reply, done, dbasync.Stmt{SQL: selectUser, ReadOnly: true}, req.Username)
	return nil
}

// loggedIn stores a new token's hash, then answers with the token.
func (x *Services) loggedIn(s *engine.Session, reply *services.Reply, user int64) {
	token, stored := newToken()
	x.query(s, reply, func(r dbasync.QueryResult) {
		if r.Err != nil {
			reply.Done(nil, queryError(r))
			return
		}
		reply.Done(loginReply{user, token}, nil)
	}, dbasync.Stmt{SQL: insertToken}, user, stored)
}

// user returns the user of a token.
func (x *Services) user(ctx *services.Context, req *tokenRequest, _ *userReply) error {
	reply := ctx.Defer()
	x.query(ctx.Session(), reply, func(r dbasync.QueryResult) {
		var u userReply
		switch err := r.Scan(&u.UserID, &u.Username); {
		case errors.Is(err, dbasync.ErrNoRows):
			reply.Done(nil, errToken)
		case err != nil:
			reply.Done(nil, queryError(r))
		default:
			reply.Done(u, nil)
		}
	}, dbasync.Stmt{SQL: selectToken, ReadOnly: true}, hashToken(req.Token))
	return nil
}

// logout revokes a token; whoever has the token may do that.
func (x *Services) logout(ctx *services.Context, req *tokenRequest, _ *logoutReply) error {
	reply := ctx.Defer()
	x.query(ctx.Session(), reply, func(r dbasync.QueryResult) {
		var user int64
		switch err := r.Scan(&user); {
		case errors.Is(err, dbasync.ErrNoRows):
			reply.Done(logoutReply{false}, nil)
		case err != nil:
			reply.Done(nil, queryError(r))
		default:
			reply.Done(logoutReply{true}, nil)
		}
	}, dbasync.Stmt{SQL: deleteToken}, hashToken(req.Token))
	return nil
}

// queryError returns the error for the client when a query failed, without details of the cause.
func queryError(r dbasync.QueryResult) error {
	if r.Outcome == dbasync.SQLError || r.Err == nil || errors.Is(r.Err, dbasync.ErrTimeout) {
		return r.Err
	}
	return &services.Error{Code: engine.CodeUnavailable, Text: r.Outcome.String() + ": no database", Err: r.Err}
}
