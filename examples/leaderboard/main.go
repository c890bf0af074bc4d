// Command leaderboard keeps scores in PostgreSQL and notifies watchers when the top ten change. No
// goroutine waits for the database.
package main

import (
	"context"
	"embed"
	"flag"
	"fmt"
	"log"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"millrace/dbasync"
	"millrace/dbasync/migrate"
	"millrace/dbasync/pgembed"
	"millrace/engine"
	"millrace/services"
	"millrace/services/events"
)

//go:embed sql/*.sql
var schema embed.FS

func main() {
	addr := flag.String("addr", "auto://127.0.0.1:7300", "`address` to listen on")
	db := flag.String("db", "", "`URL` of a PostgreSQL database; empty: a throwaway server from installed binaries")
	flag.Parse()
	if err := run(*addr, *db); err != nil {
		log.Fatal(err)
	}
}

func run(addr, url string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if url == "" {
		pg, err := pgembed.Start(ctx, pgembed.Config{})
		if err != nil {
			return fmt.Errorf("-db: %w", err)
		}
		defer pg.Stop(context.Background(), pgembed.Fast)
		url = pg.URL()
	}
	m, err := serve(ctx, addr, url)
	if err == nil {
		err = m.Start(ctx)
	}
	if err != nil {
		return err
	}
	fmt.Println("ready", strings.Join(m.TCP().URLs(), " "))
	select {
	case <-ctx.Done():
	case <-m.Done():
	}
	end, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return m.Stop(end)
}

// serve migrates the schema and creates the services.
func serve(ctx context.Context, addr, url string) (*services.Manager, error) {
	if _, err := migrate.Run(ctx, url, "leaderboard", schema); err != nil {
		return nil, err
	}
	b, err := newBoard()
	if err != nil {
		return nil, err
	}
	m, err := services.New(services.Config{
		Server:   &engine.Config{Addrs: []string{addr}, MaxFrame: 4 << 10},
		DB:       events.Database(dbasync.Config{URL: url}, events.Config{}),
		Services: []services.Spec{{Name: "watchers", Service: b.watchers}},
	})
	if err != nil {
		return nil, err
	}
	return m, b.register(m.Controller())
}
