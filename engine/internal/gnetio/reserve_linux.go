package gnetio

import (
	"errors"
	"net"
	"time"

	"github.com/panjf2000/gnet/v2"
)

// reserve is a loop without listeners. It is started when connections come while every
// other loop is held up, and serves them; it lives on then. The Host runs nothing on it
// that could hold it up.
type reserve struct {
	cli *gnet.Client
	r   *reactor
	l   *loop
}

// reserved returns the reserve's loop, and starts it first; nil when it can't be had. Any
// goroutine but that of a loop.
func (n *Network) reserved() *loop {
	n.reserveMu.Lock()
	defer n.reserveMu.Unlock()
	if n.reserve == nil && !n.reserveFailed {
		v, err := n.startReserve()
		if err != nil {
			n.reserveFailed = true
			n.cfg.Logger.Warn("connections that come while every loop is held up wait", "err", err)
			return nil
		}
		n.reserve = v
	}
	if n.reserve == nil {
		return nil
	}
	return n.reserve.l
}

func (n *Network) startReserve() (*reserve, error) {
	v := &reserve{r: n.newReactor(true)}
	v.r.reserve = true
	cli, err := gnet.NewClient(v.r, gnet.WithNumEventLoop(1), gnet.WithReadBufferCap(n.cfg.ReadBuffer), gnet.WithLogger(v.r.log))
	if err != nil {
		return nil, err
	}
	if err := cli.Start(); err != nil {
		return nil, err
	}
	v.cli = cli
	p, err := newProbe(func(conn net.Conn, p *probe) error { // it makes the loop known
		_, err := cli.EnrollContext(conn, p)
		return err
	})
	if err != nil {
		v.stop()
		return nil, err
	}
	defer p.peer.Close()
	select {
	case <-p.opened:
		v.l = p.l
		return v, nil
	case <-time.After(probeTime):
		v.stop()
		return nil, errors.New("a loop did not answer within 5 s")
	}
}

// stop ends the loop; every connection still open is closed.
func (v *reserve) stop() {
	_ = v.cli.Stop()
	v.r.eachLoop((*loop).bury)
	v.r.log.r.Store(nil)
	close(v.r.ended)
}

// stopReserve ends the reserve, and sees to it that none is started any more.
func (n *Network) stopReserve() {
	n.reserveMu.Lock()
	v := n.reserve
	n.reserve, n.reserveFailed = nil, true
	n.reserveMu.Unlock()
	if v != nil {
		v.stop()
	}
}
