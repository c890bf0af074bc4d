package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"millrace/codec"
	"millrace/engine"
	"millrace/services"
)

var long = flag.Bool("long", false, "10,000 subscribers instead of 40")

const patience = 2 * time.Minute

func start(t *testing.T) (*services.Manager, *feed) {
	t.Helper()
	m, f, err := serve("tcp://127.0.0.1:0")
	if err == nil {
		err = m.Start(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return m, f
}

// subscriber is a connection, and the last quote of each symbol that it has read.
type subscriber struct {
	net.Conn
	r    *codec.Reader
	last map[string]quote
}

func subscribe(t *testing.T, m *services.Manager, names []string) *subscriber {
	t.Helper()
	c, err := net.Dial("tcp", m.TCP().Addrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	body, _ := json.Marshal(symbols{names})
	if _, err := c.Write(codec.Packet{Main: 1, Sub: subSubscribe, Body: body}.Append(nil)); err != nil {
		t.Fatal(err)
	}
	return &subscriber{Conn: c, r: codec.NewReader(bufio.NewReader(c), nil), last: map[string]quote{}}
}

// read reads until ok, or the end.
func (s *subscriber) read(ok func() bool) error {
	for !ok() {
		p, err := s.r.Next()
		if err != nil {
			return err
		}
		if p.Main != 1 || p.Sub != subQuote {
			if p.Main == engine.SystemMain && p.Sub == engine.SubPing {
				_, err = s.Write(codec.Packet{Main: engine.SystemMain, Sub: engine.SubPong, Body: p.Body}.Append(nil))
			} else if p.Main != 1 || p.Sub != subSubscribe {
				err = fmt.Errorf("was sent %d/%d %q", p.Main, p.Sub, p.Body)
			}
			if err != nil {
				return err
			}
			continue
		}
		var q quote
		if err := json.Unmarshal(p.Body, &q); err != nil {
			return err
		}
		if was := s.last[q.Symbol]; q.Seq < was.Seq {
			return fmt.Errorf("%+v comes behind %+v", q, was)
		}
		s.last[q.Symbol] = q
	}
	return nil
}

// closing is the price of the last quotes.
const closing = 9_999

// closed tells whether the last quote of each symbol has come.
func (s *subscriber) closed(names []string) func() bool {
	return func() bool {
		return !slices.ContainsFunc(names, func(n string) bool { return s.last[n].Bid != closing })
	}
}

// All subscribers end with the newest quote of each symbol, each in order. One that has read nothing
// meanwhile holds nobody up, is not closed, and has few frames to read.
func TestEverybodyEndsWithTheNewest(t *testing.T) {
	n := 40
	if *long {
		n = 10_000 - 1 // and the one who reads nothing: a server's limit, unless it is set
		// Both ends of each connection are this process's, and a server keeps a tenth free.
		if files := openFiles(5 * n / 2); files < 5*n/2 {
			n = files * 2 / 5
			t.Logf("%d open files allow for %d subscribers", files, n)
		}
	}
	m, f := start(t)
	var names []string
	for i := range 20 {
		names = append(names, fmt.Sprint("S", i))
		f.publish(names[i], 1, 2) // what stands when they come
	}
	more := slices.Clone(names) // what the one who reads nothing has asked for
	for i := range 200 {
		more = append(more, fmt.Sprint("other symbol ", i))
	}
	deaf := subscribe(t, m, more)
	deaf.Conn.(*net.TCPConn).SetReadBuffer(4 << 10)
	all := make([]*subscriber, n)
	for i := range all {
		all[i] = subscribe(t, m, names)
	}
	var wg sync.WaitGroup
	for _, s := range all {
		wg.Go(func() {
			if err := s.read(s.closed(names)); err != nil {
				t.Errorf("a subscriber: %v", err)
			}
		})
	}
	// The source goes on until quotes of the one who reads nothing have been replaced.
	for end := time.Now().Add(patience); replaced(m, deaf) < 100; time.Sleep(time.Millisecond) {
		for _, name := range more {
			f.publish(name, 3, 4)
		}
		if time.Now().After(end) {
			t.Fatal("nothing is replaced")
		}
	}
	for _, name := range more {
		f.publish(name, closing, closing)
	}
	wg.Wait()
	if err := deaf.read(deaf.closed(more)); err != nil {
		t.Errorf("who read nothing: %v", err)
	}
	if n := m.TCP().Stats().Closes[engine.ReasonSlowConsumer]; n != 0 {
		t.Errorf("%d were closed as slow consumers", n)
	}
}

// replaced is how many quotes that a subscriber has not read were replaced by newer ones.
func replaced(m *services.Manager, sub *subscriber) (n uint64) {
	for s := range m.TCP().Sessions {
		if s.RemoteAddr().String() == sub.LocalAddr().String() {
			n = s.Stats().Conflated
		}
	}
	return n
}

func TestWhoUnsubscribesHearsNoMore(t *testing.T) {
	m, f := start(t)
	f.publish("A", 1, 2)
	f.publish("B", 1, 2)
	s := subscribe(t, m, []string{"A", "B"})
	if err := s.read(func() bool { return len(s.last) == 2 }); err != nil {
		t.Fatal(err)
	}
	body, _ := json.Marshal(symbols{[]string{"A"}})
	s.Write(codec.Packet{Main: 1, Sub: subUnsubscribe, Body: body}.Append(nil))
	for {
		p, err := s.r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if p.Sub == subUnsubscribe {
			break
		}
	}
	f.publish("A", 3, 4)
	f.publish("B", 3, 4)
	if err := s.read(func() bool { return s.last["B"].Bid == 3 }); err != nil {
		t.Fatal(err)
	}
	if s.last["A"].Bid != 1 {
		t.Errorf("A was sent: %+v", s.last["A"])
	}
}
