package main

import (
	"github.com/tidwall/evio"
)

// serveEvio: the answers of a read are returned from Data. There is no broadcast: the only way to
// write to another connection is Wake, and v1.0.8 discards unsent bytes of that connection when
// Wake's Data returns bytes (the suite detected the lost frames).
func serveEvio(o options) error {
	addr, err := freeAddr(o.addr)
	if err != nil {
		return err
	}
	return evio.Serve(evio.Events{
		NumLoops: o.loops, LoadBalance: evio.RoundRobin,
		Serving: func(evio.Server) evio.Action { announce(addr); return evio.None },
		Opened: func(c evio.Conn) ([]byte, evio.Options, evio.Action) {
			c.SetContext(&evioConn{})
			return nil, evio.Options{ReuseInputBuffer: true}, evio.None
		},
		Data: evioData,
	}, "tcp://"+addr)
}

// evioConn is a connection's context: part of a frame, its loop's own.
type evioConn struct{ held []byte }

func evioData(c evio.Conn, in []byte) ([]byte, evio.Action) {
	ec := c.Context().(*evioConn)
	if len(ec.held) > 0 {
		ec.held = append(ec.held, in...)
		in = ec.held
	}
	cast := false
	out, used, err := answer(make([]byte, 0, len(in)), in, func([]byte) { cast = true }) // evio keeps out
	if err != nil || cast {
		return nil, evio.Close
	}
	ec.held = append(ec.held[:0], in[used:]...)
	return out, evio.None
}
