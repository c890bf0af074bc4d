package pgfault

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
)

// end is one end of a connection through the proxy and what has come to it.
type end struct {
	conn *net.TCPConn

	mu   sync.Mutex
	cond sync.Cond
	got  []byte // guarded by mu
	err  error  // of the reading; guarded by mu
}

func newEnd(conn net.Conn) *end {
	e := &end{conn: conn.(*net.TCPConn)}
	e.cond.L = &e.mu
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := conn.Read(buf)
			e.mu.Lock()
			e.got = append(e.got, buf[:n]...)
			e.err = err
			e.cond.Broadcast()
			e.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return e
}

// await returns what has come when there are n bytes, or the end.
func (e *end) await(n int) ([]byte, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for len(e.got) < n && e.err == nil {
		e.cond.Wait()
	}
	return bytes.Clone(e.got), e.err
}

// ends returns both ends of a connection through p, and closes them with the test.
func ends(t *testing.T, p *Proxy, ln net.Listener) (client, server *end) {
	t.Helper()
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	return newEnd(c), newEnd(s)
}

func encoded(t *testing.T, ms ...interface{ Encode([]byte) ([]byte, error) }) (all []byte) {
	t.Helper()
	for _, m := range ms {
		b, err := m.Encode(all)
		if err != nil {
			t.Fatal(err)
		}
		all = b
	}
	return all
}

// talk is what both ends say in these tests; the fault is for the last of it.
func talk(t *testing.T, d Direction) (before, at []byte) {
	t.Helper()
	if d == Up {
		return encoded(t, &pgproto3.StartupMessage{ProtocolVersion: pgproto3.ProtocolVersion30, Parameters: map[string]string{"user": "u"}}),
			encoded(t, &pgproto3.Query{String: "select 'a text of some length'"})
	}
	return encoded(t, &pgproto3.AuthenticationOk{}, &pgproto3.ReadyForQuery{TxStatus: 'I'}),
		encoded(t, &pgproto3.CommandComplete{CommandTag: []byte("INSERT 0 1")})
}

// TestFaultIsAtItsMessage: what the peer gets ends exactly where it was told.
func TestFaultIsAtItsMessage(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	p := New(t, ln.Addr().String())
	for _, dir := range []Direction{Up, Down} {
		for _, where := range []Where{Before, Within, After} {
			for _, act := range []Act{Reset, Finish, Stall, Delay} {
				f := Fault{Dir: dir, Index: int(dir) + 1, Where: where, Act: act, For: 100 * time.Millisecond}
				t.Run(fmt.Sprintf("%v %v %v", act, where, dir), func(t *testing.T) { oneFault(t, p, ln, f) })
			}
		}
	}
}

func oneFault(t *testing.T, p *Proxy, ln net.Listener, f Fault) {
	p.Arm(f)
	client, server := ends(t, p, ln)
	from, to := client, server
	if f.Dir == Down {
		from, to = server, client
	}
	before, at := talk(t, f.Dir)
	began := time.Now()
	if _, err := from.conn.Write(append(bytes.Clone(before), at...)); err != nil {
		t.Fatal(err)
	}
	n := len(before) + [...]int{0, len(at) / 2, len(at)}[f.Where]
	want := append(bytes.Clone(before), at...)
	got, _ := to.await(n)
	if !bytes.HasPrefix(want, got) || len(got) < n {
		t.Fatalf("got %d bytes, want %d", len(got), n)
	}
	switch f.Act {
	case Reset, Finish:
		got, err := to.await(n + 1)
		if len(got) != n {
			t.Errorf("got %d bytes, want %d", len(got), n)
		}
		if finished := errors.Is(err, io.EOF); finished != (f.Act == Finish) {
			t.Errorf("ended with %v", err)
		}
		if _, err := from.await(1); err == nil {
			t.Error("the sender's side goes on")
		}
	case Stall:
		p.awaitStall(t)
		// Nothing comes through the other way either.
		if _, err := to.conn.Write(answer(t, f.Dir)); err != nil {
			t.Fatal(err)
		}
		if back, err := awaitFor(from, 1, 50*time.Millisecond); err != errTime {
			t.Errorf("the other direction: got %d bytes, %v, while stalled", len(back), err)
		}
		if got, _ := awaitFor(to, n+1, time.Millisecond); len(got) != n {
			t.Errorf("got %d bytes while stalled, want %d", len(got), n)
		}
		p.Heal()
		if back, err := from.await(1); err != nil || len(back) == 0 {
			t.Errorf("the other direction, healed: got %d bytes, %v", len(back), err)
		}
		fallthrough
	case Delay:
		got, _ = to.await(len(want))
		if !bytes.Equal(got, want) {
			t.Errorf("got %d bytes in the end, want %d", len(got), len(want))
		}
		if took := time.Since(began); f.Act == Delay && f.Where != After && took < f.For {
			t.Errorf("held for %v, want %v", took, f.For)
		}
	}
	m, hit := p.Found()
	if want := [...]string{"Query", "CommandComplete"}[f.Dir]; !hit || m.Type != want || m.Size != len(at) {
		t.Errorf("found %+v, want %s", m, want)
	}
}

// answer is something that the receiver of a direction may say.
func answer(t *testing.T, d Direction) []byte {
	t.Helper()
	if d == Up {
		return encoded(t, &pgproto3.AuthenticationOk{})
	}
	before, _ := talk(t, Up)
	return before
}

// awaitStall returns when a link is stalled.
func (p *Proxy) awaitStall(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
		p.mu.Lock()
		for l := range p.links {
			if l.stalled != nil {
				p.mu.Unlock()
				return
			}
		}
		p.mu.Unlock()
	}
	t.Fatal("nothing is stalled")
}

var errTime = errors.New("the time is up")

func awaitFor(e *end, n int, d time.Duration) ([]byte, error) {
	type result struct {
		b   []byte
		err error
	}
	ch := make(chan result, 1)
	go func() { b, err := e.await(n); ch <- result{b, err} }()
	select {
	case r := <-ch:
		return r.b, r.err
	case <-time.After(d):
		e.mu.Lock()
		defer e.mu.Unlock()
		return bytes.Clone(e.got), errTime
	}
}

// TestRequestForEncryptionIsRefused, and is no message.
func TestRequestForEncryptionIsRefused(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	p := New(t, ln.Addr().String())
	p.Arm(Fault{})
	client, server := ends(t, p, ln)
	if _, err := client.conn.Write(encoded(t, &pgproto3.SSLRequest{})); err != nil {
		t.Fatal(err)
	}
	if got, err := client.await(1); string(got) != "N" {
		t.Errorf("got %q, %v, want N", got, err)
	}
	before, _ := talk(t, Up)
	if _, err := client.conn.Write(before); err != nil {
		t.Fatal(err)
	}
	if got, _ := server.await(len(before)); !bytes.Equal(got, before) {
		t.Errorf("got %d bytes, want the startup message alone", len(got))
	}
	if ms := p.Messages(Up); len(ms) != 1 || ms[0].Type != "StartupMessage" {
		t.Errorf("counted %v", ms)
	}
}
