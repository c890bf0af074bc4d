package dbasync

import (
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
)

// countingProxy stands between a client and a server and counts how often the client
// speaks after the server did: the round trips.
type countingProxy struct {
	url   string
	turns atomic.Int64
	last  atomic.Int32 // 1: the client spoke last
}

func newCountingProxy(tb testing.TB, target string) *countingProxy {
	tb.Helper()
	u, err := url.Parse(target)
	if err != nil {
		tb.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	p := &countingProxy{}
	to := u.Host
	u.Host = ln.Addr().String()
	p.url = u.String()
	var wg sync.WaitGroup
	tb.Cleanup(func() { ln.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			s, err := net.Dial("tcp", to)
			if err != nil {
				c.Close()
				continue
			}
			wg.Go(func() { p.pipe(c, s, 1) })
			wg.Go(func() { p.pipe(s, c, 2) })
		}
	})
	return p
}

func (p *countingProxy) pipe(from, to net.Conn, who int32) {
	defer from.Close()
	defer to.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if p.last.Swap(who) != who && who == 1 {
				p.turns.Add(1)
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err == io.EOF || err != nil {
			return
		}
	}
}
