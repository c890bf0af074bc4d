package gnetio

import (
	"errors"
	"net"
	"time"

	"github.com/panjf2000/gnet/v2"
)

// reserve is a loop without listeners, for connections that arrive while a callback blocks every
// other loop. It is started when first needed and then runs until Stop. The Host runs nothing on
// it that may block.
type reserve struct {
	cli *gnet.Client
	r   *reactor
	l   *loop
}

// reserved returns the reserve's loop, which it starts if necessary; nil if that failed. It may
// block for probeTime, so it must not be called on a loop's goroutine.
func (n *Network) reserved() *loop {
	n.reserveMu.Lock()
	defer n.reserveMu.Unlock()
	if n.reserve == nil && !n.reserveFailed {
		v, err := n.startReserve()
		if err != nil {
			n.reserveFailed = true
			n.cfg.Logger.Warn("the reserve loop did not start: while callbacks block every loop, new connections wait", "err", err)
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
	p, err := newProbe(func(conn net.Conn, p *probe) error { // its OnOpen makes the loop
		_, err := cli.EnrollContext(conn, p)
		if err != nil {
			_ = conn.Close()
		}
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

// stop ends the loop and closes its connections.
func (v *reserve) stop() {
	_ = v.cli.Stop()
	v.r.eachLoop((*loop).bury)
	v.r.log.r.Store(nil)
	close(v.r.ended)
}

// stopReserve ends the reserve, if there is one; none is started afterwards.
func (n *Network) stopReserve() {
	n.reserveMu.Lock()
	v := n.reserve
	n.reserve, n.reserveFailed = nil, true
	n.reserveMu.Unlock()
	if v != nil {
		v.stop()
	}
}
