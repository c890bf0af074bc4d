// Command gateway serves devices that use their vendor's frame format, and an HTTP API that returns their
// readings and sends them commands.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"millrace/engine"
)

func main() {
	addr := flag.String("addr", "tcp://127.0.0.1:7500", "`address` for devices")
	web := flag.String("http", "127.0.0.1:7580", "`host:port` of the HTTP side")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	g, srv, err := serve(*addr)
	if err == nil {
		err = srv.Start(ctx)
	}
	if err != nil {
		log.Fatal(err)
	}
	side := &http.Server{Addr: *web, Handler: g.routes(), ReadHeaderTimeout: 5 * time.Second}
	go func() { log.Print(side.ListenAndServe()); stop() }()
	fmt.Println("ready", strings.Join(srv.URLs(), " "), "http://"+*web)
	<-ctx.Done()
	end, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := errors.Join(side.Shutdown(end), srv.Stop(end)); err != nil {
		log.Fatal(err)
	}
}

func serve(addr string) (*gateway, *engine.Server, error) {
	g := &gateway{devices: map[string]*engine.Session{}}
	srv, err := engine.New(engine.Config{
		Addrs: []string{addr}, Framer: frame{}, NoSystemFrames: true,
		Timeouts: engine.Timeouts{IdleTimeout: 5 * time.Minute}, // devices send a reading each minute
	}, g)
	return g, srv, err
}

// routes are GET /devices/SERIAL and POST /devices/SERIAL with the command as its body.
func (g *gateway) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /devices/{serial}", func(w http.ResponseWriter, r *http.Request) {
		v, err := g.reading(r.PathValue("serial"))
		answer(w, fmt.Sprintf("%.1f\n", float64(v)/10), err)
	})
	mux.HandleFunc("POST /devices/{serial}", func(w http.ResponseWriter, r *http.Request) {
		text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody-1))
		if err != nil {
			http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
			return
		}
		out, err := g.command(r.PathValue("serial"), string(text))
		answer(w, out+"\n", err)
	})
	return mux
}

func answer(w http.ResponseWriter, text string, err error) {
	switch {
	case err == nil:
		io.WriteString(w, text)
	case errors.Is(err, errAway):
		http.Error(w, err.Error(), http.StatusNotFound)
	case errors.Is(err, errBusy):
		http.Error(w, err.Error(), http.StatusTooManyRequests)
	default:
		http.Error(w, err.Error(), http.StatusBadGateway)
	}
}
