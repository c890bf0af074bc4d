package dbasync

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// connect makes a lane's connection: pgconn handles the host list, TLS and authentication, then the
// raw connection is taken over. This is the only file that uses Hijack, which pgx excludes from its
// compatibility promise.
func (db *DB) connect(ctx context.Context, index int) (laneConn, error) {
	cfg := db.laneConfig(index)
	// Each host of the URL has ConnectTimeout, so that a silent one is skipped.
	ctx, cancel := context.WithTimeout(ctx, db.cfg.ConnectTimeout*time.Duration(1+len(cfg.Fallbacks)))
	defer cancel()
	c, err := db.dial(ctx, cfg)
	if err != nil {
		return laneConn{}, fmt.Errorf("dbasync: connect: %w", whyRefused(err))
	}
	raw, err := db.takeOver(ctx, c)
	if err != nil {
		c.Close(ctx)
		return laneConn{}, fmt.Errorf("dbasync: connect: %w", whyRefused(err))
	}
	return raw, nil
}

// dial connects. For AfterConnect the connection is temporarily a pgx.Conn; its type map is passed
// to the encoders.
func (db *DB) dial(ctx context.Context, cfg *pgconn.Config) (*pgconn.PgConn, error) {
	if db.cfg.AfterConnect == nil {
		c, err := pgconn.ConnectConfig(ctx, cfg)
		if err == nil {
			if err = db.setUp(ctx, c, db.laneSettings()); err != nil {
				c.Close(ctx)
				return nil, err
			}
		}
		return c, err
	}
	full := db.pgCfg.ConnConfig.Copy()
	full.Config = *cfg
	c, err := pgx.ConnectConfig(ctx, full)
	if err != nil {
		return nil, err
	}
	if err = db.setUp(ctx, c.PgConn(), db.laneSettings()); err == nil {
		err = db.cfg.AfterConnect(ctx, c)
	}
	if err == nil && !db.unnamed {
		err = c.DeallocateAll(ctx) // pgx's statements are not used any more
	}
	if err != nil {
		c.Close(ctx)
		return nil, fmt.Errorf("AfterConnect: %w", err)
	}
	db.encs.types.adopt(c.TypeMap())
	return c.PgConn(), nil
}

func (db *DB) takeOver(ctx context.Context, c *pgconn.PgConn) (laneConn, error) {
	chain := serverMajor(c.ParameterStatus("server_version")) >= 12
	for name, sql := range laneStatements {
		if db.unnamed || name == stmtChain && !chain {
			continue
		}
		if _, err := c.Prepare(ctx, name, sql, nil); err != nil {
			return laneConn{}, err
		}
	}
	if err := c.SyncConn(ctx); err != nil {
		return laneConn{}, err
	}
	h, err := c.Hijack()
	if err != nil {
		return laneConn{}, err
	}
	// pgconn may have left ctx's deadline set.
	if err := h.Conn.SetDeadline(time.Time{}); err != nil {
		h.Conn.Close()
		return laneConn{}, err
	}
	return laneConn{Conn: h.Conn, pid: h.PID, chain: chain}, nil
}

// laneTimeout returns Config.StatementTimeout in milliseconds, as the value of a setting.
func (db *DB) laneTimeout() string {
	return strconv.FormatInt(max(1, db.cfg.StatementTimeout.Milliseconds()), 10)
}

// laneSettings returns the SQL that a lane begins with behind PgBouncer.
func (db *DB) laneSettings() string {
	if db.cfg.StatementTimeout <= 0 || db.cfg.PgBouncer == "" {
		return db.settings
	}
	return strings.TrimPrefix(db.settings+"; set statement_timeout = "+db.laneTimeout(), "; ")
}

// laneConfig returns the caller's configuration with what a shared connection needs.
func (db *DB) laneConfig(index int) *pgconn.Config {
	cfg := db.pgCfg.ConnConfig.Config.Copy()
	if cfg.RuntimeParams == nil {
		cfg.RuntimeParams = make(map[string]string)
	}
	if db.cfg.StatementTimeout > 0 && db.cfg.PgBouncer == "" {
		cfg.RuntimeParams["statement_timeout"] = db.laneTimeout()
	}
	cfg.ConnectTimeout = db.cfg.ConnectTimeout
	if cfg.RuntimeParams["application_name"] == "" {
		cfg.RuntimeParams["application_name"] = "millrace lane " + strconv.Itoa(index)
	}
	return cfg
}

// serverMajor returns the first number of "15.18 (…)", or 0 if there is none.
func serverMajor(version string) int {
	n := 0
	for _, c := range version {
		if c < '0' || c > '9' {
			break
		}
		n = n*10 + int(c-'0')
	}
	return n
}
