package engine

import (
	"errors"
	"fmt"

	"millrace/engine/internal/door"
	"millrace/engine/internal/gnetio"
	"millrace/engine/internal/machine"
	"millrace/engine/internal/netio"
)

// newNetwork creates the network for the server's settings, with the protocols that its addresses
// use.
func newNetwork(srv *Server) (network, error) {
	c := &srv.cfg
	h := (*host)(srv)
	var sessions netio.Host = h
	if srv.resumes() {
		sessions = resumeHost{h}
	}
	return door.New(door.Config{
		Addrs: c.Addrs, TLS: c.TLS, HandshakeTimeout: c.HandshakeTimeout, MaxHandshakes: c.MaxHandshakes, HandshakeRate: c.HandshakeRate, IPv6Prefix: c.IPv6Prefix,
		FirstTimeout: c.FirstFrameTimeout, FrameTimeout: c.FrameTimeout, Linger: c.Linger, Deflate: c.Deflate, MaxRatio: c.MaxRatio,
		Proxies: sources(c.ProxyFrom), ForwardedFor: sources(c.ForwardedFrom), Origins: c.Origins, OnUpgrade: c.OnUpgrade,
		Frames: srv.wholeFrames, Framing: func(conn netio.Conn, k netio.Sink) any { return srv.framingAt(conn, k) }, Draining: srv.draining.Load, Stalled: stalled, Short: h.short, MaxOpening: func() int { return srv.cfg.MaxConns }, Shed: h.crowded, Budget: srv.budget, Logger: c.Logger,
	}, sessions, func(sockets []string, below netio.Host) door.Below {
		if srv.machine != nil {
			return srv.machine.Network(machine.Network{
				Addrs: sockets, Loops: c.Loops, ReadBuffer: c.ReadBuffer, MaxRefused: c.MaxRefused, Linger: c.Linger, Logger: c.Logger,
			}, below)
		}
		return gnetio.New(gnetio.Config{
			Addrs: sockets, Loops: c.Loops, Single: c.Accept == AcceptSingle, Balance: gnetio.Balance(c.Balance),
			ReadBuffer: c.ReadBuffer, SocketRecvBuffer: c.SocketRecvBuffer, SocketSendBuffer: c.SocketSendBuffer, Delay: c.Delay,
			KeepAlive: c.KeepAlive, KeepAliveEvery: c.KeepAliveEvery, KeepAliveCount: c.KeepAliveCount, UserTimeout: c.UserTimeout,
			MaxRefused: c.MaxRefused, Linger: c.Linger, UnixMode: c.UnixMode, Logger: c.Logger,
		}, below)
	})
}

// netError converts an error of the network to one of the server.
func netError(err error) error {
	if j, ok := err.(interface{ Unwrap() []error }); ok {
		var errs []error
		for _, e := range j.Unwrap() {
			errs = append(errs, netError(e))
		}
		return errors.Join(errs...)
	}
	var bad *gnetio.AddrError
	switch {
	case errors.As(err, &bad):
		return &ConfigError{"Addrs", bad.Addr, bad.Why}
	case errors.Is(err, errors.ErrUnsupported):
		return fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	return fmt.Errorf("engine: %w", err)
}
