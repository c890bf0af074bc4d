package pgfault

import (
	"bufio"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// link is one connection through the proxy.
type link struct {
	p              *Proxy
	conn           int
	client, server *net.TCPConn

	stalled    chan struct{} // nil: it is not; else closed by Heal; guarded by p.mu
	finished   atomic.Bool   // what comes is dropped
	auth       atomic.Uint32 // what the server has asked for last
	gone       chan struct{} // closed by reset
	clientGone chan struct{} // closed when nothing more comes from the client
	once       sync.Once
}

func newLink(p *Proxy, client, server *net.TCPConn) *link {
	return &link{p: p, client: client, server: server, gone: make(chan struct{}), clientGone: make(chan struct{})}
}

var errOver = errors.New("pgfault: the connection was ended")

// run returns when both sides are closed.
func (l *link) run() {
	up, down := make(chan packet, 1024), make(chan packet, 1024)
	var wg sync.WaitGroup
	wg.Go(func() { defer close(l.clientGone); defer close(up); l.read(newUpward(l), up) })
	wg.Go(func() { defer close(down); l.read(newDownward(l), down) })
	wg.Go(func() { l.write(l.server, up) })
	wg.Go(func() { l.write(l.client, down) })
	wg.Wait()
	l.client.Close()
	l.server.Close()
}

// read cuts what comes into messages until its end.
func (l *link) read(src source, out chan<- packet) {
	for {
		m, err := src.next()
		if err != nil {
			if err != io.EOF {
				l.reset()
			}
			return
		}
		select {
		case out <- m:
		case <-l.gone:
			return
		}
	}
}

// write passes messages on to one end, and its end after them.
func (l *link) write(to *net.TCPConn, in <-chan packet) {
	out := bufio.NewWriterSize(open{l, to}, 32<<10)
	for m := range in {
		err := l.pass(out, m)
		if err == nil && len(in) == 0 {
			err = out.Flush()
		}
		if err != nil {
			break
		}
	}
	for range in { // nobody is to wait for this goroutine
	}
	_ = to.CloseWrite()
}

// pass writes m and does the fault that is meant for it.
func (l *link) pass(out *bufio.Writer, m packet) error {
	if l.finished.Load() {
		return errOver
	}
	f, hit := l.p.come(m.Message)
	if !hit {
		_, err := out.Write(m.raw)
		return err
	}
	n := [...]int{Before: 0, Within: len(m.raw) / 2, After: len(m.raw)}[f.Where]
	if _, err := out.Write(m.raw[:n]); err != nil {
		return err
	}
	if err := out.Flush(); err != nil {
		return err
	}
	if err := l.do(f); err != nil {
		return err
	}
	_, err := out.Write(m.raw[n:])
	return err
}

// do returns nil when the connection goes on.
func (l *link) do(f Fault) error {
	switch f.Act {
	case Reset:
		l.reset()
		return errOver
	case Finish:
		l.finished.Store(true)
		_ = l.client.CloseWrite()
		_ = l.server.CloseWrite()
		return errOver
	case Stall:
		l.p.mu.Lock()
		l.stalled = l.p.healed
		l.p.mu.Unlock()
		return l.awaitOpen()
	}
	t := time.NewTimer(f.For)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-l.gone:
		return errOver
	}
}

// awaitOpen waits while the link is stalled.
func (l *link) awaitOpen() error {
	l.p.mu.Lock()
	healed := l.stalled
	l.p.mu.Unlock()
	if healed == nil {
		return nil
	}
	select {
	case <-healed:
		return nil
	case <-l.clientGone:
		l.reset()
		return errOver
	case <-l.gone:
		return errOver
	}
}

// open is an end that is written to only while the link is open.
type open struct {
	l  *link
	to *net.TCPConn
}

func (o open) Write(b []byte) (int, error) {
	if err := o.l.awaitOpen(); err != nil {
		return 0, err
	}
	if o.l.finished.Load() {
		return 0, errOver
	}
	return o.to.Write(b)
}

// reset ends both sides with RST.
func (l *link) reset() {
	l.once.Do(func() {
		close(l.gone)
		for _, c := range []*net.TCPConn{l.client, l.server} {
			_ = c.SetLinger(0)
			_ = c.Close()
		}
	})
}
