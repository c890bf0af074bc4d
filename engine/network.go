package engine

import (
	"errors"
	"fmt"

	"millrace/engine/internal/gnetio"
)

// newNetwork makes the network that the server's settings say.
func newNetwork(srv *Server) network {
	c := &srv.cfg
	return gnetio.New(gnetio.Config{
		Addrs: c.Addrs, Loops: c.Loops, Single: c.Accept == AcceptSingle, Balance: gnetio.Balance(c.Balance),
		ReadBuffer: c.ReadBuffer, SocketRecvBuffer: c.SocketRecvBuffer, SocketSendBuffer: c.SocketSendBuffer, Delay: c.Delay,
		KeepAlive: c.KeepAlive, KeepAliveEvery: c.KeepAliveEvery, KeepAliveCount: c.KeepAliveCount, UserTimeout: c.UserTimeout,
		MaxRefused: c.MaxRefused, Linger: c.Linger, UnixMode: c.UnixMode, Logger: c.Logger,
	}, (*host)(srv))
}

// netError words an error of the network as the server's.
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
