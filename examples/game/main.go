// Command game is a lobby and arenas that tick 20 times a second: players walk about and pick up
// coins. The README beside it shows the wire.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"millrace/engine"
	"millrace/services"
)

func main() {
	addr := flag.String("addr", "auto://127.0.0.1:7200", "`address` to listen on, for frames and WebSockets alike")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	m, err := serve(*addr)
	if err == nil {
		err = m.Start(ctx)
	}
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("ready", strings.Join(m.TCP().URLs(), " "))
	select {
	case <-ctx.Done():
	case <-m.Done():
	}
	end, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := m.Stop(end); err != nil {
		log.Fatal(err)
	}
}

// serve creates the manager and its services, the arenas among them.
func serve(addr string) (*services.Manager, error) {
	l, err := newLobby()
	if err != nil {
		return nil, err
	}
	m, err := services.New(services.Config{
		Server: &engine.Config{
			Addrs:     []string{addr},
			MaxFrame:  1 << 10, // what a player sends is short
			Heartbeat: 10 * time.Second,
			Timeouts:  engine.Timeouts{IdleTimeout: 30 * time.Second},
		},
		Services: []services.Spec{{Name: "arenas", Service: l.arenas}},
	})
	if err != nil {
		return nil, err
	}
	return m, l.register(m.Controller())
}
