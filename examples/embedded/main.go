// Command embedded is a net/http program with an engine in it: people log in over HTTP and get a ticket,
// open a connection with it, and are notified there of what happens over HTTP.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	web := flag.String("http", "127.0.0.1:7780", "`host:port` of the HTTP side")
	live := flag.String("live", "auto://127.0.0.1:7700", "`address` of the connections")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *web, *live, func(web, live string) { fmt.Println("ready", web, live) }); err != nil {
		log.Fatal(err)
	}
}

// run serves both until ctx ends, and then stops HTTP first, as its handlers send to connections.
func run(ctx context.Context, web, live string, ready func(web, live string)) error {
	l, err := newLive(live)
	if err != nil {
		return err
	}
	if err := l.server.Start(ctx); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", web)
	if err != nil {
		return errors.Join(err, l.server.Stop(context.Background()))
	}
	s := &http.Server{Handler: l.routes(), ReadHeaderTimeout: 5 * time.Second}
	served := make(chan error, 1)
	go func() { served <- s.Serve(listener) }()
	ready("http://"+listener.Addr().String(), strings.Join(l.server.URLs(), " "))
	select {
	case <-ctx.Done():
	case <-l.server.Done():
	case err = <-served:
	}
	end, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return errors.Join(err, s.Shutdown(end), l.server.Stop(end))
}
