package main

import (
	"context"
	"crypto/rand"
	"errors"
	"runtime"

	"github.com/alexedwards/argon2id"
	"github.com/jackc/pgx/v5"

	"millrace/dbasync"
)

// accounts stores names and hashed passwords. Its methods block for a hash and a query, so they are called
// by services that are declared to block (services.Blocking).
type accounts struct {
	hashing chan struct{} // a place for each hash under way: one takes 19 MiB and a processor
	nobody  string        // a hash of the same cost whose password nobody knows
}

// cost is the minimum that OWASP recommends for argon2id.
var cost = &argon2id.Params{Memory: 19 << 10, Iterations: 2, Parallelism: 1, SaltLength: 16, KeyLength: 32}

func newAccounts() (*accounts, error) {
	nobody, err := argon2id.CreateHash(rand.Text(), cost)
	return &accounts{make(chan struct{}, runtime.GOMAXPROCS(0)), nobody}, err
}

var (
	errTaken = errors.New("login: the name is taken")
	errWrong = errors.New("login: wrong name or password")
)

func (a *accounts) place(ctx context.Context) (release func(), err error) {
	select {
	case a.hashing <- struct{}{}:
		return func() { <-a.hashing }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// create creates an account. It returns errTaken if the name has one.
func (a *accounts) create(ctx context.Context, db *dbasync.DB, name, password string) error {
	release, err := a.place(ctx)
	if err != nil {
		return err
	}
	hash, err := argon2id.CreateHash(password, cost)
	release()
	if err != nil {
		return err
	}
	tag, err := db.Blocking().Exec(ctx, "insert into account (name, hash) values ($1, $2) on conflict do nothing", name, hash)
	if err == nil && tag.RowsAffected() == 0 {
		err = errTaken
	}
	return err
}

// check returns nil for the right password. It takes as long for a name without an account, so that
// its time does not tell which names exist.
func (a *accounts) check(ctx context.Context, db *dbasync.DB, name, password string) error {
	var hash string
	err := db.Blocking().QueryRow(ctx, "select hash from account where name = $1", name).Scan(&hash)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		hash = a.nobody
	case err != nil:
		return err
	}
	release, err := a.place(ctx)
	if err != nil {
		return err
	}
	defer release()
	if ok, err := argon2id.ComparePasswordAndHash(password, hash); err != nil || !ok {
		return errors.Join(errWrong, err)
	}
	return nil
}
