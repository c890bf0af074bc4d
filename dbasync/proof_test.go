package dbasync

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// TestOnlyTheServersOwnWordProvesNotRun: what a pooler says of its own does not tell
// what the server behind it has done.
func TestOnlyTheServersOwnWordProvesNotRun(t *testing.T) {
	const server = "ProcessInterrupts"
	for _, c := range []struct {
		name, code, routine string
		sure                int // of three in flight
	}{
		{"pooler lost its server", "08P01", "", 0},
		{"pooler that shuts down", "57P01", "", 0},
		{"pooler's idle timeout", "57P05", "", 0},
		{"unknown of the server", "XX000", "errfinish", 0},
		{"server was terminated", "57P01", server, 2},
		{"server was idle", "57P05", server, 3},
		{"server was idle in a transaction", "25P03", server, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			db, err := New(Config{URL: "postgres://127.0.0.1:1/x", Lanes: 1})
			if err != nil {
				t.Fatal(err)
			}
			l := db.lanes[0]
			var es []entry
			for range 3 {
				r := db.newRequest()
				r.state.Store(stSent)
				es = append(es, entry{kind: kStrict, req: r})
			}
			again, ended, _ := l.sortLost(es, l.sureFrom(len(es), &fatalError{&pgconn.PgError{Severity: "FATAL", Code: c.code, Routine: c.routine}}))
			if len(again) != c.sure || len(ended) != 3-c.sure {
				t.Errorf("got %d that have not run, want %d", len(again), c.sure)
			}
		})
	}
}

// pooler stands before a server and ends connections as a pooler does that has lost its
// server: the server gets all that was sent and no answer comes back, but a FATAL of
// the pooler's own.
type pooler struct {
	ln    net.Listener
	to    string
	after int // bytes of answers until then; handshakes are about 600

	mu    sync.Mutex
	conns int // cut so far; guarded by mu
	wg    sync.WaitGroup
}

func newPooler(t *testing.T, to string, after int) *pooler {
	t.Helper()
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &pooler{ln: ln, to: u.Host, after: after}
	p.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			p.wg.Go(func() { p.serve(c) })
		}
	})
	t.Cleanup(func() { ln.Close(); p.wg.Wait() })
	return p
}

func (p *pooler) url(t *testing.T, of string) string {
	t.Helper()
	u, err := url.Parse(of)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = p.ln.Addr().String()
	return u.String()
}

func (p *pooler) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", p.to)
	if err != nil {
		return
	}
	defer server.Close()
	var up sync.WaitGroup
	up.Go(func() { _, _ = io.Copy(server, client); server.(*net.TCPConn).CloseWrite() })
	defer up.Wait()
	left := p.after
	head := make([]byte, 5)
	for {
		if _, err := io.ReadFull(server, head); err != nil {
			client.Close()
			return
		}
		body := make([]byte, binary.BigEndian.Uint32(head[1:])-4)
		if _, err := io.ReadFull(server, body); err != nil {
			client.Close()
			return
		}
		if left -= 5 + len(body); left < 0 {
			break
		}
		if _, err := client.Write(append(head[:5:5], body...)); err != nil {
			break
		}
	}
	p.mu.Lock()
	p.conns++
	p.mu.Unlock()
	msg := "SFATAL\x00C08P01\x00Mserver conn crashed?\x00\x00"
	_, _ = client.Write(append(binary.BigEndian.AppendUint32([]byte{'E'}, uint32(len(msg)+4)), msg...))
	client.(*net.TCPConn).CloseWrite()
	_, _ = io.Copy(io.Discard, server) // it runs what it has got
}

// TestOutcomesAreTrueBehindAPoolerThatLosesItsServer keeps inserts in flight while every
// connection is ended by the pooler after some answers.
func TestOutcomesAreTrueBehindAPoolerThatLosesItsServer(t *testing.T) {
	srv := server(t)
	for _, form := range []string{"chain", "strict", "keyed", "slow", "tx", "batch"} {
		t.Run(form, func(t *testing.T) {
			admin(t, srv.URL(), faultTables)
			p := newPooler(t, srv.URL(), 6000)
			db, err := New(Config{URL: p.url(t, srv.URL()), Strict: form == "strict", MinBackoff: time.Millisecond, MaxBackoff: 5 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			if err := db.Start(context.Background()); err != nil {
				t.Fatal(err)
			}
			f := &faults{db: db, form: form, ended: make(map[int64]Outcome)}
			f.wg.Add(64)
			for range 64 {
				f.insert()
			}
			cuts, d := 40, time.Minute
			if *long {
				cuts, d = 1<<30, 50*time.Second
			}
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
				p.mu.Lock()
				n := p.conns
				p.mu.Unlock()
				if n >= cuts {
					break
				}
			}
			f.stop.Store(true)
			f.wg.Wait()
			if err := db.Stop(context.Background()); err != nil {
				t.Error(err)
			}
			p.ln.Close()
			p.wg.Wait()
			f.compare(t, srv.URL())
			t.Logf("%d connections were cut", p.conns)
		})
	}
}

// TestBadChannelIsRefusedAndHurtsNobody: the listener that all share goes on.
func TestBadChannelIsRefusedAndHurtsNobody(t *testing.T) {
	db := open(t, nil)
	ch := make(chan Notification, 1000)
	if _, err := db.Listen(nil, "steady", func(n Notification) { ch <- n }); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", strings.Repeat("x", 64), "a\x00b", "\xff"} {
		if _, err := db.Listen(nil, name, func(Notification) {}); !errors.Is(err, ErrBadChannel) {
			t.Errorf("%q: got %v, want ErrBadChannel", name, err)
		}
	}
	if _, err := db.Listen(nil, strings.Repeat("y", 63), func(Notification) {}); err != nil {
		t.Errorf("63 bytes: %v", err)
	}
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		ask(t, db, Stmt{SQL: "select pg_notify('steady', 'x')"})
		select {
		case n := <-ch:
			if n.Payload != "x" || n.Lost {
				t.Errorf("got %+v", n)
			}
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
	t.Error("nothing was heard")
}
