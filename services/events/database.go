package events

import (
	"log/slog"

	"millrace/dbasync"
	"millrace/engine"
	"millrace/services"
)

// Database returns the function for services.Config.DB that creates a manager's database, with the
// durable events stored in it. Both use the manager's pool, and its logger if none is set; cfg.DB
// and cfg.URL are set from db.
func Database(db dbasync.Config, cfg Config) services.MakeDatabase {
	return func(pool *engine.Pool, logger *slog.Logger) (services.Database, services.DurableEvents, error) {
		db, cfg := db, cfg
		db.Pool = pool
		if db.Logger == nil {
			db.Logger = logger
		}
		if cfg.Logger == nil {
			cfg.Logger = logger
		}
		d, err := dbasync.New(db)
		if err != nil {
			return nil, nil, err
		}
		cfg.DB, cfg.Pool, cfg.URL = d, pool, db.URL
		e, err := New(cfg)
		if err != nil {
			return nil, nil, err
		}
		return d, e, nil
	}
}

// DB returns the database of a manager or of a services.Context, if it is a *dbasync.DB; else nil.
// In a stage pass Session() as the submitter of results.
func DB(of interface{ DB() services.Database }) *dbasync.DB {
	db, _ := of.DB().(*dbasync.DB)
	return db
}
