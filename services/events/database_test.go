package events_test

import (
	"errors"
	"fmt"
	"testing"

	"millrace/dbasync"
	"millrace/engine"
	"millrace/services"
	"millrace/services/events"
)

// The package services does not depend on the database, and still reports the kind of failure to clients.
func TestPeersAreToldWhatKindOfFailureADatabaseHad(t *testing.T) {
	for err, want := range map[error]engine.ErrorCode{
		dbasync.ErrQueueFull:   engine.CodeOverloaded,
		dbasync.ErrTimeout:     engine.CodeTimeout,
		dbasync.ErrClosed:      engine.CodeUnavailable,
		dbasync.ErrConnLost:    engine.CodeUnavailable,
		dbasync.ErrNoRows:      engine.CodeInternal,
		errors.New("whatever"): engine.CodeInternal,
	} {
		for _, err := range []error{err, fmt.Errorf("select: %w: %w", err, errors.New("reset"))} {
			if got := services.ErrorOf(err); got.Code != want {
				t.Errorf("%v: got %v, want %v", err, got.Code, want)
			}
		}
	}
}

func TestDatabaseOfAManagerAndOfItsContexts(t *testing.T) {
	m, err := services.New(services.Config{Logger: quiet, DB: events.Database(dbasync.Config{URL: "postgres://127.0.0.1:1/x"}, events.Config{})})
	must(t, err)
	if db := events.DB(m); db == nil || db != events.DB(m.Controller().Context(nil)) || m.Events() == nil {
		t.Errorf("got %v, %v", events.DB(m), m.Events())
	}
	if m, err = services.New(services.Config{Logger: quiet}); err != nil || events.DB(m) != nil || m.DB() != nil || m.Events() != nil {
		t.Errorf("without a database: got %v, %v, %v", m.DB(), m.Events(), err)
	}
	for name, make := range map[string]services.MakeDatabase{
		"no URL":         events.Database(dbasync.Config{URL: "nonsense://"}, events.Config{}),
		"negative lease": events.Database(dbasync.Config{URL: "postgres://127.0.0.1:1/x"}, events.Config{Lease: -1}),
	} {
		if _, err := services.New(services.Config{Logger: quiet, DB: make}); err == nil {
			t.Errorf("%s: want an error", name)
		}
	}
}
