package services_test

import (
	"errors"
	"log/slog"
	"strings"
	"testing"

	"millrace/engine"
	"millrace/services"
)

// A part that can't be created is reported once; that other services need it is not a second error.
func TestAManagerTellsAPartThatCantBeMadeOnce(t *testing.T) {
	needs := func(name string) []services.Spec {
		return []services.Spec{{Name: "mine", Service: &mine{j: &journal{}}, After: []string{name}}}
	}
	broken := errors.New("broken")
	for name, cfg := range map[string]services.Config{
		services.NameTCP: {Server: &engine.Config{Addrs: []string{"nowhere"}}},
		services.NameDB: {DB: func(*engine.Pool, *slog.Logger) (services.Database, services.DurableEvents, error) {
			return nil, nil, broken
		}},
	} {
		cfg.Services = needs(name)
		if _, err := services.New(cfg); err == nil || strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "which does not exist") {
			t.Errorf("%s: got %v, want the one error of the part", name, err)
		}
		if _, err := services.New(services.Config{Services: needs(name)}); err == nil || !strings.Contains(err.Error(), "which does not exist") {
			t.Errorf("%s: got %v for a manager without it", name, err)
		}
	}
}
