package dbasync

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"
)

// logOutages sets what the log says of connections that are lost: one line for all lanes, and one
// for the listener.
func (db *DB) logOutages() {
	log, name := db.cfg.Logger, db.cfg.Name
	retry := "after " + db.cfg.MaxBackoff.String() + " at most"
	db.lanesOut.Lost = func(n int, err error, away time.Duration, first bool) {
		text := "dbasync: the database can't be reached"
		up := db.lanesUp()
		if up > 0 {
			text = "dbasync: connections to the database are down"
		}
		if !first {
			log.Warn(text, "db", name, "connected", up, "of", len(db.lanes), "for", away.Round(time.Second), "failures", n, "err", oneLine(err), "again", retry)
			return
		}
		log.Warn(text, "db", name, "connected", up, "of", len(db.lanes), "err", oneLine(err), "again", retry)
	}
	db.lanesOut.Back = func(away time.Duration, err error) {
		if err != nil {
			log.Warn("dbasync: connections to the database were lost, and made again", "db", name, "err", oneLine(err))
			return
		}
		log.Info("dbasync: the database is connected again", "db", name, "connected", db.lanesUp(), "after", away.Round(time.Millisecond))
	}
	db.listens.out.Lost = func(n int, err error, away time.Duration, _ bool) {
		log.Warn("dbasync: notifications are lost until the database is connected again", "db", name, "for", away.Round(time.Second), "failures", n, "err", oneLine(err), "again", retry)
	}
	db.listens.out.Back = func(away time.Duration, err error) {
		if err != nil {
			log.Warn("dbasync: the connection for notifications was lost, and made again", "db", name, "err", oneLine(err))
			return
		}
		log.Info("dbasync: notifications arrive again", "db", name, "after", away.Round(time.Millisecond))
	}
}

// lanesUp returns how many lanes are connected.
func (db *DB) lanesUp() (n int) {
	for _, l := range db.lanes {
		if l.up.Load() {
			n++
		}
	}
	return n
}

// laneDown notes that a lane was lost, or failed to connect.
func (db *DB) laneDown(err error) {
	if !errors.Is(err, context.Canceled) {
		db.lanesOut.Fail(err)
	}
}

// laneUp notes that a lane is connected. The outage is over with the last one.
func (db *DB) laneUp() {
	if db.lanesUp() < len(db.lanes) {
		return
	}
	if !db.greeted.Swap(true) && !db.lanesOut.Down() {
		db.cfg.Logger.Info("dbasync: connected", "db", db.cfg.Name, "connections", len(db.lanes))
	}
	db.lanesOut.Fine()
}

// oneLine returns an error's text on one line, without the repetitions in pgx's errors, which has a
// line for each attempt.
func oneLine(err error) string {
	var parts []string
	for line := range strings.Lines(err.Error()) {
		if line = strings.TrimSpace(line); line != "" && !slices.Contains(parts, line) {
			parts = append(parts, line)
		}
	}
	if len(parts) > 1 && strings.HasSuffix(parts[0], ":") {
		parts[1] = parts[0] + " " + parts[1]
		parts = parts[1:]
	}
	return strings.Join(parts, "; ")
}
