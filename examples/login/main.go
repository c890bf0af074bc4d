// Command login has accounts in PostgreSQL and several nodes, on which each user has at most one session:
// a login elsewhere ends the previous session, and messages to a user reach the node of the session.
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
	"millrace/engine"
	"millrace/services"
	"millrace/services/cluster"
	"millrace/services/events"
	"millrace/services/nodes"
)

//go:embed sql/*.sql
var schema embed.FS

func main() {
	var s settings
	flag.StringVar(&s.addr, "addr", "auto://127.0.0.1:7400", "`address` to listen on")
	flag.StringVar(&s.node, "node", "a", "`name` of this node, which no other one has")
	flag.StringVar(&s.db, "db", "postgres://127.0.0.1/login", "`URL` of the PostgreSQL database")
	flag.StringVar(&s.nats, "nats", "nats://127.0.0.1:4222", "`URL` of the NATS servers, with JetStream")
	flag.Parse()
	if err := s.run(); err != nil {
		log.Fatal(err)
	}
}

type settings struct{ addr, node, db, nats string }

func (s settings) run() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	m, err := s.make(ctx)
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

// make migrates the schema and creates the services. Nodes that start at the same time migrate one at a time.
func (s settings) make(ctx context.Context) (*services.Manager, error) {
	if _, err := migrate.Run(ctx, s.db, "login", schema); err != nil {
		return nil, err
	}
	cache, err := cluster.New(cluster.Config{URL: s.nats, Bucket: "login"})
	if err != nil {
		return nil, err
	}
	node, err := nodes.New(nodes.Config{Name: s.node, Cache: cache})
	if err != nil {
		return nil, err
	}
	known, err := newAccounts()
	if err != nil {
		return nil, err
	}
	m, err := services.New(services.Config{
		Mode: services.ManyProcesses, Shared: nodes.Shared(node),
		Server: &engine.Config{Addrs: []string{s.addr}, MaxFrame: 4 << 10},
		DB:     events.Database(dbasync.Config{URL: s.db}, events.Config{}),
	})
	if err != nil {
		return nil, err
	}
	l := &login{known, node}
	return m, l.register(m.Controller())
}
