package nodes_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"millrace/codec"
	"millrace/services/nodes"
)

// inFlight runs op as often as b says, so many at a time.
func inFlight(b *testing.B, n int, op func() error) {
	b.Helper()
	b.ReportAllocs()
	b.ResetTimer()
	var left atomic.Int64
	left.Store(int64(b.N))
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			for left.Add(-1) >= 0 {
				if err := op(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
}

// BenchmarkCall is a call of another node, and "bare" a request of nats.go with a body of the
// size that it has on the way.
func BenchmarkCall(b *testing.B) {
	url := servers(b)
	all := together(b, url, "a b", sums(b))
	from, to := bare(b, url), bare(b, url)
	body := make([]byte, 90)
	if _, err := to.Subscribe("bare", func(m *nats.Msg) { _ = m.Respond(body) }); err != nil {
		b.Fatal(err)
	}
	if err := to.Flush(); err != nil {
		b.Fatal(err)
	}
	for _, n := range []int{1, 64} {
		b.Run(fmt.Sprintf("node/flying=%d", n), func(b *testing.B) {
			inFlight(b, n, func() error {
				_, err := all[0].callAndWait(nodes.CallOptions{Node: "b"})
				return err
			})
		})
		b.Run(fmt.Sprintf("then/flying=%d", n), func(b *testing.B) {
			inFlight(b, n, func() error {
				_, err := all[0].callThen(nodes.CallOptions{Node: "b"})
				return err
			})
		})
		b.Run(fmt.Sprintf("bare/flying=%d", n), func(b *testing.B) {
			inFlight(b, n, func() error {
				_, err := from.Request("bare", body, time.Minute)
				return err
			})
		})
		b.Run(fmt.Sprintf("here/flying=%d", n), func(b *testing.B) {
			inFlight(b, n, func() error {
				_, err := all[0].callAndWait(nodes.CallOptions{})
				return err
			})
		})
	}
}

func bare(b *testing.B, url string) *nats.Conn {
	b.Helper()
	nc, err := nats.Connect(url)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(nc.Close)
	return nc
}

// BenchmarkGroup is a send to 100 members on another node, and "local" one to as many on the
// node that sends: the time until all have it.
func BenchmarkGroup(b *testing.B) {
	const members = 100
	for _, where := range []string{"remote", "local"} {
		b.Run(where, func(b *testing.B) {
			all := together(b, servers(b), "a b")
			at := all[1]
			var got atomic.Int64
			for range members {
				c := at.dial()
				if _, err := at.Join(background, c.s, "tea"); err != nil {
					b.Fatal(err)
				}
				_ = c.SetReadDeadline(time.Now().Add(time.Hour))
				go func() {
					r := codec.NewReader(c.Conn, nil)
					for {
						if _, err := r.Next(); err != nil {
							return
						}
						got.Add(1)
					}
				}()
			}
			from := all[0]
			if where == "local" {
				from = at
			}
			body := make([]byte, 64)
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				for {
					if _, err := from.SendGroup(background, nil, "tea", 1, 8, body); err == nil {
						break
					}
					time.Sleep(time.Millisecond)
				}
				for int64(i)*members-got.Load() > 200*members { // no more than waits easily
					time.Sleep(100 * time.Microsecond)
				}
			}
			for got.Load() < int64(b.N)*members {
				time.Sleep(100 * time.Microsecond)
			}
		})
	}
}

// BenchmarkUser is a send to a user of another node: the store is asked, then the node.
func BenchmarkUser(b *testing.B) {
	all := together(b, servers(b), "a b")
	c := all[1].dial()
	all[1].bind(c, "ann")
	go func() {
		r := codec.NewReader(c.Conn, nil)
		for {
			if _, err := r.Next(); err != nil {
				return
			}
		}
	}()
	_ = c.SetReadDeadline(time.Now().Add(time.Hour))
	for _, n := range []int{1, 64} {
		b.Run(fmt.Sprintf("flying=%d", n), func(b *testing.B) {
			inFlight(b, n, func() error {
				sent, err := all[0].SendUser(background, "ann", 6, 6, nil)
				if err == nil && !sent {
					err = context.Canceled
				}
				return err
			})
		})
	}
}

// BenchmarkBind is a login: the store is read and written.
func BenchmarkBind(b *testing.B) {
	a := start(b, servers(b), "a", func(s *settings) { s.MaxSessionUsers = 1 << 20 })
	c := a.dial()
	for _, n := range []int{1, 64} {
		b.Run(fmt.Sprintf("flying=%d", n), func(b *testing.B) {
			var user atomic.Int64
			inFlight(b, n, func() error {
				_, err := a.Bind(background, c.s, about, fmt.Sprint("user", user.Add(1)%10_000))
				return err
			})
		})
	}
}

// BenchmarkRoom is a message to a room: here, and with its home elsewhere.
func BenchmarkRoom(b *testing.B) {
	on := map[string]*counters{}
	all := together(b, servers(b), "a b", withCounters(b, on, true))
	first, err := on["a"].add(background, "one", 1)
	if err != nil {
		b.Fatal(err)
	}
	for _, m := range all {
		where := "remote"
		if m.Name() == first.Node {
			where = "here"
		}
		for _, n := range []int{1, 64} {
			b.Run(fmt.Sprintf("%s/flying=%d", where, n), func(b *testing.B) {
				inFlight(b, n, func() error {
					_, err := on[m.Name()].Ask(background, "one", []byte("1"))
					return err
				})
			})
			b.Run(fmt.Sprintf("%s/then/flying=%d", where, n), func(b *testing.B) {
				inFlight(b, n, func() error {
					_, err := askThen(background, on[m.Name()].Homes, "one", []byte("1"))
					return err
				})
			})
		}
	}
}
