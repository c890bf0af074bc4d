package page

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/codec"
)

// load is what goes on at the server meanwhile. It survives the server's end.
type load struct {
	addr string
	form *codec.Codec
	ctx  context.Context
	all  sync.WaitGroup

	requests, churned, refused, cut atomic.Uint64
}

func (l *load) String() string {
	return fmt.Sprintf("%d requests of sessions that stay, %d sessions that came and went, %d refused, %d slow readers cut off",
		l.requests.Load(), l.churned.Load(), l.refused.Load(), l.cut.Load())
}

func startLoad(t *testing.T, addr string) *load {
	form, err := codec.New(codec.Layout{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{addr: addr, form: form, ctx: ctx}
	t.Cleanup(func() { cancel(); l.all.Wait() })
	for range steady {
		l.run(1, func(c *conn) error { return c.echoes() })
	}
	for range 4 {
		l.run(1, func(c *conn) error { return c.asks(1, 4, []byte(`{"ms":600}`)) })
	}
	for range 3 {
		l.run(1, (*conn).readsNothing)
	}
	l.run(1, (*conn).tellsAll)
	for range 2 {
		l.run(1, (*conn).readsSlowly)
	}
	churners := 4 // each has some 80 sessions a second, one after another
	if *long {
		churners = 20
	}
	l.run(churners, (*conn).comesAndGoes)
	l.all.Go(l.crowd)
	return l
}

// run has n connections, each of which does what fn says, and begins anew when it ends.
func (l *load) run(n int, fn func(*conn) error) {
	for range n {
		l.all.Go(func() {
			for l.ctx.Err() == nil {
				if c, err := l.dial(); err == nil {
					_ = fn(c) // the server may be gone, or full
					c.Close()
				}
				l.pause(10 * time.Millisecond)
			}
		})
	}
}

func (l *load) pause(d time.Duration) {
	select {
	case <-l.ctx.Done():
	case <-time.After(d):
	}
}

// conn is one connection. It ends with the load.
type conn struct {
	net.Conn
	l    *load
	in   *codec.Reader
	stop func() bool
}

func (l *load) dial() (*conn, error) {
	var d net.Dialer
	nc, err := d.DialContext(l.ctx, "tcp", l.addr)
	if err != nil {
		return nil, err
	}
	_ = nc.(*net.TCPConn).SetReadBuffer(8 << 10)
	c := &conn{Conn: nc, l: l, in: codec.NewReader(nc, l.form)}
	c.stop = context.AfterFunc(l.ctx, func() { nc.Close() })
	return c, nil
}

func (c *conn) Close() error {
	c.stop()
	return c.Conn.Close()
}

func (c *conn) send(main, sub uint16, body []byte) error {
	b, err := c.l.form.Append(nil, codec.Packet{Main: main, Sub: sub, Body: body})
	if err == nil {
		_, err = c.Write(b)
	}
	return err
}

// ask waits for the answer.
func (c *conn) ask(main, sub uint16, body []byte) error {
	if err := c.send(main, sub, body); err != nil {
		return err
	}
	p, err := c.in.Next()
	if err == nil && (p.Main != main || p.Sub != sub) {
		return fmt.Errorf("%d/%d was answered by %d/%d %q", main, sub, p.Main, p.Sub, p.Body)
	}
	return err
}

// enter is a connection that has a session.
func (l *load) enter(ctx context.Context) (net.Conn, error) {
	for ctx.Err() == nil {
		if c, err := l.dial(); err == nil {
			if c.ask(1, 3, nil) == nil {
				return c, nil
			}
			c.Close()
		}
		l.pause(5 * time.Millisecond)
	}
	return nil, ctx.Err()
}

func (c *conn) asks(main, sub uint16, body []byte) error {
	for {
		if err := c.ask(main, sub, body); err != nil {
			return err
		}
		c.l.requests.Add(1)
	}
}

func (c *conn) echoes() error {
	body := make([]byte, 64)
	for {
		if err := c.ask(1, 1, body); err != nil {
			return err
		}
		c.l.requests.Add(1)
		c.l.pause(2 * time.Second)
	}
}

// readsNothing is of a group that is told much, until it is cut off.
func (c *conn) readsNothing() error {
	if err := c.ask(1, 5, []byte(`{"group":"news"}`)); err != nil {
		return err
	}
	for c.l.ctx.Err() == nil {
		c.l.pause(200 * time.Millisecond)
		if err := c.send(1, 3, nil); err != nil {
			c.l.cut.Add(1)
			return err
		}
	}
	return nil
}

func (c *conn) tellsAll() error {
	body := []byte(`{"group":"news","data":"` + string(fill(8<<10)) + `"}`)
	for {
		if err := c.ask(1, 7, body); err != nil {
			return err
		}
		c.l.pause(20 * time.Millisecond)
	}
}

func fill(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = 'x'
	}
	return b
}

// readsSlowly asks for more than it reads.
func (c *conn) readsSlowly() error {
	body, read := fill(16<<10), make(chan error, 1)
	go func() {
		for {
			if _, err := c.in.Next(); err != nil {
				read <- err
				return
			}
			c.l.pause(50 * time.Millisecond)
		}
	}()
	for {
		if err := c.send(1, 1, body); err != nil {
			c.Close()
			<-read
			return err
		}
	}
}

func (c *conn) comesAndGoes() error {
	err := c.ask(1, 1, []byte("hello"))
	if err == nil {
		c.l.churned.Add(1)
	}
	return err
}

// crowd comes in numbers that there is no place for.
func (l *load) crowd() {
	for l.ctx.Err() == nil {
		var all []*conn
		for range maxConns - steady + 20 {
			if c, err := l.dial(); err == nil {
				all = append(all, c)
			}
		}
		for _, c := range all {
			_ = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			if p, err := c.in.Next(); err == nil && p.Main == 0 {
				l.refused.Add(1)
			}
			c.Close()
		}
		l.pause(500 * time.Millisecond)
	}
}
