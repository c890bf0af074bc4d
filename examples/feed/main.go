// Command feed sends quotes to subscribers. A slow subscriber gets the newest quote of each symbol, less
// often; nobody waits for it, and it is not disconnected.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"math/rand/v2"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"millrace/engine"
	"millrace/services"
)

func main() {
	addr := flag.String("addr", "auto://127.0.0.1:7600", "`address` to listen on")
	rate := flag.Int("rate", 10_000, "changes in a `second`, made up, of 100 symbols S0 to S99")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	m, f, err := serve(*addr)
	if err == nil {
		err = m.Start(ctx)
	}
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("ready", strings.Join(m.TCP().URLs(), " "))
	f.walk(ctx, *rate)
	end, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := m.Stop(end); err != nil {
		log.Fatal(err)
	}
}

// walk publishes made-up changes until ctx ends.
func (f *feed) walk(ctx context.Context, rate int) {
	prices := make([]int64, 100)
	for tick := time.NewTicker(10 * time.Millisecond); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for range max(1, rate/100) {
			i := rand.IntN(len(prices))
			prices[i] += rand.Int64N(21) - 10
			f.publish(fmt.Sprintf("S%d", i), 100_000+prices[i], 100_010+prices[i])
		}
	}
}

func serve(addr string) (*services.Manager, *feed, error) {
	f := &feed{latest: map[string]*quote{}}
	m, err := services.New(services.Config{
		Server: &engine.Config{
			Addrs:     []string{addr},
			Limits:    engine.Limits{MaxGroups: maxSymbols},
			Socket:    engine.Socket{SocketSendBuffer: 32 << 10}, // what the kernel has can't be replaced any more
			Heartbeat: 15 * time.Second,                          // a subscriber says nothing by himself
		},
		Services: []services.Spec{{Name: "feed", Service: f}},
	})
	if err != nil {
		return nil, nil, err
	}
	f.server, f.pool, f.timers = m.TCP, m.Async, m.Timers
	return m, f, f.register(m.Controller())
}
