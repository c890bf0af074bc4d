package main

import (
	"crypto/rand"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"millrace/codec"
	"millrace/engine"
)

// The handles, all of Main 1.
const (
	subTicket = 1 // the ticket; answered with the name
	subNotice = 2 // from the server
)

// live is the engine's handler. It knows which user each connection belongs to.
type live struct {
	server *engine.Server

	mu      sync.Mutex
	tickets map[string]ticket // guarded by mu
}

type ticket struct {
	name string
	till time.Time
}

const (
	ticketTime = time.Minute
	maxTickets = 100_000
)

func newLive(addr string) (*live, error) {
	l := &live{tickets: map[string]ticket{}}
	srv, err := engine.New(engine.Config{Addrs: []string{addr}, MaxFrame: 4 << 10}, l)
	l.server = srv
	return l, err
}

func (l *live) OnSocketAccept(*engine.Session) {}

// OnSocketRead handles one request, the login with a ticket. The sessions of a user form a group that
// has the user's name.
func (l *live) OnSocketRead(s *engine.Session, p codec.Packet) {
	if p.Main != 1 || p.Sub != subTicket {
		s.ReplyError(p, engine.CodeUnknownHandle, "there is 1/1, with a ticket")
		return
	}
	name, ok := l.redeem(string(p.Body))
	if !ok {
		s.ReplyError(p, engine.CodeUnauthorised, "no such ticket, or not any more")
		return
	}
	if _, err := l.server.Group(name).Join(s); err != nil {
		s.ReplyError(p, engine.CodeLimit, err.Error())
		return
	}
	s.Reply(p, []byte(name))
}

func (l *live) OnSocketClose(*engine.Session, engine.Reason) {} // groups are left by themselves

// issue creates a ticket, which can be used once, within a minute.
func (l *live) issue(name string) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if len(l.tickets) >= maxTickets {
		for text, t := range l.tickets {
			if now.After(t.till) {
				delete(l.tickets, text)
			}
		}
		if len(l.tickets) >= maxTickets {
			return "", errors.New("too many tickets")
		}
	}
	text := rand.Text()
	l.tickets[text] = ticket{name, now.Add(ticketTime)}
	return text, nil
}

func (l *live) redeem(text string) (name string, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t, ok := l.tickets[text]
	delete(l.tickets, text)
	return t.name, ok && time.Now().Before(t.till)
}

// routes returns the HTTP handlers. They call the engine directly: Send and similar methods may be
// called from any goroutine and never block.
func (l *live) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /login", func(w http.ResponseWriter, r *http.Request) {
		name := r.FormValue("name") // and here, in a real one, a password or a cookie
		if name == "" || len(name) > 64 {
			http.Error(w, "name: 1 to 64 bytes", http.StatusBadRequest)
			return
		}
		t, err := l.issue(name)
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		io.WriteString(w, t+"\n")
	})
	mux.HandleFunc("POST /notify/{name}", func(w http.ResponseWriter, r *http.Request) {
		text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 2<<10))
		if err != nil {
			http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
			return
		}
		sent, err := l.server.Group(r.PathValue("name")).Send(1, subNotice, text)
		switch {
		case errors.Is(err, engine.ErrBusy), errors.Is(err, engine.ErrMemory):
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		case err != nil:
			http.Error(w, err.Error(), http.StatusInternalServerError)
		case sent == 0:
			http.Error(w, "not found", http.StatusNotFound)
		}
	})
	return mux
}
