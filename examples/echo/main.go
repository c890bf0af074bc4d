// Command echo answers each frame with itself: the smallest server.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"

	"millrace/codec"
	"millrace/engine"
)

type echo struct{}

func (echo) OnSocketAccept(*engine.Session)                 {}
func (echo) OnSocketRead(s *engine.Session, p codec.Packet) { s.Reply(p, p.Body) }
func (echo) OnSocketClose(*engine.Session, engine.Reason)   {}

func main() {
	addr := "auto://127.0.0.1:7000"
	if len(os.Args) > 1 {
		addr = os.Args[1]
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	srv, err := engine.New(engine.Config{Addrs: []string{addr}}, echo{})
	if err == nil {
		err = srv.Start(ctx)
	}
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("ready", srv.URLs()[0])
	<-ctx.Done()
	if err := srv.Stop(context.Background()); err != nil {
		log.Fatal(err)
	}
}
