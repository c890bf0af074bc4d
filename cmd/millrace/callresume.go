package main

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"time"

	"millrace/codec"
	"millrace/engine"
	"millrace/services/client"
)

// resumed sends and prints in a session that is resumed after a lost connection.
func (c *callCmd) resumed(l *listener, req *codec.Packet, maxFrame int) error {
	if err := checkAddr("ADDR", c.Addr); err != nil {
		return err
	}
	framer, err := c.framer(maxFrame, &sources{})
	if err != nil {
		return err
	}
	if framer != nil && !framer.Handles() {
		return exitf(exitUsage, "--resume: --framing %s has no handles, and so no sessions to resume; leave one of them out", c.Framing)
	}
	if req != nil && req.Main == engine.SystemMain {
		return exitf(exitUsage, "MAIN/SUB %q: with --resume Main 0 is reserved for the client; leave --resume out", c.Handle)
	}
	cfg, err := c.tls()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(c.Timeout))
	defer cancel()
	frames, end := make(chan codec.Packet), make(chan error, 1)
	ended := func(err error) {
		select {
		case end <- err:
		default: // it has already ended
		}
	}
	var dialed atomic.Pointer[client.Client]
	conn, err := client.Dial(ctx, client.Config{
		Addrs: []string{c.Addr}, Layout: c.layout(), Framer: framer, MaxFrame: maxFrame, TLS: cfg,
		DialTimeout: time.Duration(c.Timeout), Resume: time.Duration(c.Resume),
		OnOther: func(p codec.Packet) {
			select {
			case frames <- p.Clone():
			case <-l.done:
			}
		},
		OnLost: func(err error) {
			switch gone := errors.Is(err, client.ErrGoAway); {
			case errors.Is(err, client.ErrSession) && !gone:
				ended(err)
			case errors.Is(err, client.ErrSession):
				ended(io.EOF)
			case gone: // another server may go on with the session; if none does, it ends well
				conn := dialed.Load()
				if conn == nil { // as soon as it had come
					ended(io.EOF)
					return
				}
				before := conn.ResumeStats().Resumed
				time.AfterFunc(time.Duration(c.Timeout), func() {
					if conn.ResumeStats().Resumed == before {
						ended(io.EOF)
					}
				})
			}
		},
	})
	if err != nil {
		return exitf(exitNoServer, "%w", err)
	}
	dialed.Store(conn)
	defer func() {
		close(l.done)
		conn.Close()
	}()
	if !conn.ResumeStats().On {
		return exitf(exitUsage, "--resume: %s does not resume sessions; start it with --resume, or leave it out here", c.Addr)
	}
	if req != nil {
		if err := conn.Send(ctx, req.Handle(), req.Body); err != nil {
			return exitf(exitProtocol, "%w", err)
		}
	}
	return c.wait(l, req, frames, end)
}
