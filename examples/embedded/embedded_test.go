package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"millrace/codec"
	"millrace/services"
	"millrace/services/client"
)

// open runs the program; its end is waited for.
func open(t *testing.T) (web, live string) {
	t.Helper()
	ctx, end := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	ready := make(chan [2]string, 1)
	go func() {
		ended <- run(ctx, "127.0.0.1:0", "tcp://127.0.0.1:0", func(web, live string) { ready <- [2]string{web, live} })
	}()
	t.Cleanup(func() {
		end()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	select {
	case addrs := <-ready:
		return addrs[0], addrs[1]
	case err := <-ended:
		ended <- err
		t.Fatal(err)
	}
	return
}

func post(t *testing.T, url, kind, body string) (int, string) {
	t.Helper()
	res, err := http.Post(url, kind, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, strings.TrimSpace(string(b))
}

func TestWhatIsSaidOverHTTPReachesTheConnection(t *testing.T) {
	web, live := open(t)
	notices := make(chan string, 8)
	dial := func(name string) (*client.Client, string) {
		code, ticket := post(t, web+"/login", "application/x-www-form-urlencoded", "name="+url.QueryEscape(name))
		if code != 200 {
			t.Fatalf("login: %d %s", code, ticket)
		}
		c, err := client.Dial(t.Context(), client.Config{Addrs: []string{live}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		c.On(services.Handle(1, subNotice), func(p codec.Packet) { notices <- name + ": " + string(p.Body) })
		if got, err := c.Do(t.Context(), services.Handle(1, subTicket), []byte(ticket)); err != nil || string(got) != name {
			t.Fatalf("the ticket: %q, %v", got, err)
		}
		return c, ticket
	}
	c, ticket := dial("ann")
	dial("ben")
	if code, text := post(t, web+"/notify/ann", "text/plain", "a letter"); code != 200 {
		t.Errorf("notify: %d %s", code, text)
	}
	select {
	case got := <-notices:
		if got != "ann: a letter" {
			t.Errorf("got %q", got)
		}
	case <-time.After(time.Minute):
		t.Fatal("nobody was told")
	}
	for _, bad := range []string{ticket, "made up"} {
		if _, err := c.Do(t.Context(), services.Handle(1, subTicket), []byte(bad)); err == nil || !strings.Contains(fmt.Sprint(err), "error 8") {
			t.Errorf("ticket %q: %v, want error 8", bad, err)
		}
	}
	if code, _ := post(t, web+"/notify/nobody", "text/plain", "x"); code != 404 {
		t.Errorf("to nobody: %d, want 404", code)
	}
}
