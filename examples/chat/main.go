// Command chat is a chat server on package services: rooms, names, history, and who is present.
// No line that was answered is lost or duplicated, whatever fails; the README explains how, and shows
// the commands.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"millrace/engine"
	"millrace/services"
)

func main() {
	var s settings
	flag.StringVar(&s.addr, "addr", "auto://127.0.0.1:7100", "`address` of the chat, for frames and WebSockets alike; tcp:// or ws:// for one of them")
	flag.StringVar(&s.page, "page", "127.0.0.1:7180", "`host:port` of the page; empty for none")
	flag.StringVar(&s.public, "public", "", "`URL` that the page finds the chat at, such as wss://chat.example/; empty: the page's own host and the port of -addr")
	flag.StringVar(&s.origins, "origin", "", "`pages` that may open a WebSocket, with commas between them; empty: those of the host that it is opened to")
	flag.StringVar(&s.history, "history", "chat.jsonl", "`file` that the lines are kept in")
	flag.IntVar(&s.limits.rooms, "rooms", 64, "how many rooms there may be")
	flag.IntVar(&s.limits.lines, "lines", 500, "how many lines a room keeps")
	flag.Parse()
	if err := s.run(); err != nil {
		fmt.Fprintln(os.Stderr, "chat:", err)
		os.Exit(1)
	}
}

type settings struct {
	addr, page, public, origins, history string
	limits                               limits
}

// run serves until SIGINT or SIGTERM.
func (s *settings) run() error {
	if flag.NArg() > 0 {
		return fmt.Errorf("argument %q: there are only flags, see -help", flag.Arg(0))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	m, c, err := s.make()
	if err != nil {
		return err
	}
	if err := m.Start(ctx); err != nil {
		return err
	}
	fmt.Println("ready", strings.Join(append(m.TCP().URLs(), c.page.url()), " "))
	select {
	case <-ctx.Done():
		stop() // a second signal ends it at once
	case <-m.Done():
	}
	end, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := m.Stop(end); err != nil {
		return err
	}
	return m.Err()
}

// make creates the manager, with two services of this program: the history and the page.
func (s *settings) make() (*services.Manager, *chat, error) {
	c, err := newChat(s.history, s.limits)
	if err != nil {
		return nil, nil, err
	}
	cfg := &engine.Config{
		Addrs:     []string{s.addr},
		Doors:     engine.Doors{Origins: []string{"*"}, OnUpgrade: sameHost},
		Heartbeat: 10 * time.Second,
		Timeouts:  engine.Timeouts{IdleTimeout: 30 * time.Second, Resume: 30 * time.Second},
	}
	if s.origins != "" {
		cfg.Doors = engine.Doors{Origins: strings.Split(s.origins, ",")}
	}
	own := []services.Spec{{Name: "chat", Service: c}}
	if s.page != "" {
		c.page = newPage(s.page, s.public, func() []string { return c.server.URLs() })
		own = append(own, services.Spec{Name: "page", Service: c.page, After: []string{services.NameTCP}})
	}
	m, err := services.New(services.Config{Server: cfg, Services: own})
	if err != nil {
		return nil, nil, err
	}
	c.server = m.TCP()
	return m, c, c.register(m.Controller())
}
