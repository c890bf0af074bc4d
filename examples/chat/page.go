package main

import (
	"context"
	_ "embed"
	"errors"
	"html"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

// pageHTML is built from the folder page by its build.mjs, as one self-contained file.
//
//go:embed page.html
var pageHTML string

// addressMark is replaced in the page by the chat's address.
const addressMark = "CHAT_ADDRESS"

// page serves the page.
type page struct {
	addr    string
	public  string
	urls    func() []string // of the chat
	srv     *http.Server
	ln      net.Listener
	running atomic.Bool
}

func newPage(addr, public string, urls func() []string) *page {
	p := &page{addr: addr, public: public, urls: urls}
	p.srv = &http.Server{Handler: http.HandlerFunc(p.serve), ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second,
		IdleTimeout: 30 * time.Second, MaxHeaderBytes: 8 << 10}
	return p
}

// Start implements services.Service.
func (p *page) Start(context.Context) (err error) {
	if p.ln, err = net.Listen("tcp", p.addr); err != nil {
		return err
	}
	p.running.Store(true)
	go func() {
		if err := p.srv.Serve(p.ln); !errors.Is(err, http.ErrServerClosed) {
			slog.Error("chat: the page", "err", err)
		}
		p.running.Store(false)
	}()
	return nil
}

// Stop implements services.Service.
func (p *page) Stop(ctx context.Context) error { return p.srv.Shutdown(ctx) }

// Running implements services.Service.
func (p *page) Running() bool { return p.running.Load() }

// url returns the address of the page. Call it after Start.
func (p *page) url() string {
	if p == nil {
		return ""
	}
	return "http://" + p.ln.Addr().String() + "/"
}

// address returns the chat's address for the page: a URL, or a port on the page's own host.
func (p *page) address() string {
	if p.public != "" {
		return p.public
	}
	_, rest, _ := strings.Cut(p.urls()[0], "://")
	host, path, _ := strings.Cut(rest, "/")
	_, port, _ := net.SplitHostPort(host)
	return ":" + port + "/" + path
}

func (p *page) serve(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/" {
		http.NotFound(w, r)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "frame-ancestors 'none'") // the page itself says what else
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-cache")
	_, _ = w.Write([]byte(strings.Replace(pageHTML, addressMark, html.EscapeString(p.address()), 1)))
}

// sameHost accepts WebSockets from pages of the same host only. The port may differ, as the page and
// the chat have different ones.
func sameHost(r *http.Request) error {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return nil // no browser
	}
	from, err := url.Parse(origin)
	to := url.URL{Host: r.Host}
	if err != nil || !strings.EqualFold(from.Hostname(), to.Hostname()) {
		return errors.New("pages of other hosts can't: give them with -origin")
	}
	return nil
}
