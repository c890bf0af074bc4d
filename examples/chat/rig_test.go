package main

import (
	"context"
	"errors"
	"flag"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"millrace/codec"
	"millrace/engine"
	"millrace/services"
	"millrace/services/client"
)

var long = flag.Bool("long", false, "drive the browsers for minutes, with many restarts and cuts")

// rig is a chat on a real socket.
type rig struct {
	testing.TB
	path string
	lim  limits
	m    *services.Manager
	c    *chat
}

func newRig(t testing.TB, l limits) *rig {
	r := &rig{TB: t, path: filepath.Join(t.TempDir(), "chat.jsonl"), lim: l}
	r.start()
	t.Cleanup(r.stop)
	return r
}

func (r *rig) start() {
	r.Helper()
	s := settings{addr: "tcp://127.0.0.1:0", history: r.path, limits: r.lim}
	var err error
	if r.m, r.c, err = s.make(); err == nil {
		err = r.m.Start(context.Background())
	}
	if err != nil {
		r.Fatal(err)
	}
}

func (r *rig) stop() {
	if r.m == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := r.m.Stop(ctx); err != nil {
		r.Errorf("stop: %v", err)
	}
	r.m = nil
}

func (r *rig) context() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	r.Cleanup(cancel)
	return ctx
}

// user is a client of the chat, and what it was told.
type user struct {
	*client.Client
	r     *rig
	mu    sync.Mutex
	lines []line  // guarded by mu
	who   whoPush // guarded by mu
}

func (r *rig) dial() *user {
	r.Helper()
	cl, err := client.Dial(r.context(), client.Config{Addrs: []string{r.c.server.Addrs()[0].String()}})
	if err != nil {
		r.Fatal(err)
	}
	u := &user{Client: cl, r: r}
	r.Cleanup(cl.Close)
	cl.On(services.Handle(mainChat, subLine), func(p codec.Packet) {
		u.mu.Lock()
		defer u.mu.Unlock()
		var l line
		if err := json.Decode(p.Body, &l); err != nil {
			r.Errorf("a line: %v", err)
		}
		u.lines = append(u.lines, l)
	})
	cl.On(services.Handle(mainChat, subWho), func(p codec.Packet) {
		u.mu.Lock()
		defer u.mu.Unlock()
		if err := json.Decode(p.Body, &u.who); err != nil {
			r.Errorf("who is there: %v", err)
		}
	})
	return u
}

func ask[Req, Res any](u *user, sub uint16, req Req) (Res, error) {
	return client.Call[Req, Res](u.r.context(), u.Client, services.Handle(mainChat, sub), req)
}

func (u *user) join(room, name string, more ...func(*joinRequest)) joinReply {
	u.r.Helper()
	req := joinRequest{Room: room, Name: name}
	for _, fn := range more {
		fn(&req)
	}
	res, err := ask[joinRequest, joinReply](u, subJoin, req)
	if err != nil {
		u.r.Fatalf("join %s as %s: %v", room, name, err)
	}
	return res
}

func (u *user) say(room, text string) uint64 {
	u.r.Helper()
	res, err := ask[sayRequest, sayReply](u, subSay, sayRequest{Room: room, Text: text})
	if err != nil {
		u.r.Fatalf("say %q: %v", text, err)
	}
	return res.Seq
}

// heard waits until n lines were pushed.
func (u *user) heard(n int) []line {
	u.r.Helper()
	u.r.until(func() bool { u.mu.Lock(); defer u.mu.Unlock(); return len(u.lines) >= n }, "%d lines", n)
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.lines)
}

func (r *rig) until(ok func() bool, what string, args ...any) {
	r.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			r.Fatalf("never saw "+what, args...)
		}
	}
}

// code is that of an ERROR; 0 is none.
func code(err error) engine.ErrorCode {
	var e *client.Error
	if errors.As(err, &e) {
		return engine.ErrorCode(e.Code)
	}
	if err != nil {
		return ^engine.ErrorCode(0)
	}
	return 0
}

func texts(lines []line) (all []string) {
	for _, l := range lines {
		all = append(all, l.Text)
	}
	return all
}
