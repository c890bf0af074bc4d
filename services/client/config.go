package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"millrace/codec"
	"millrace/services/serial"
)

// Config sets a client. Zero fields mean the defaults.
type Config struct {
	// Addrs are what Connect takes: tcp://host:port, unix:///path, tls://, ws:// or wss://;
	// a name without :// is host:port. They are tried in turn.
	Addrs []string
	// Layout and MaxFrame are the server's; default: the default frame, and 64 KiB or
	// what its length field can say.
	Layout   codec.Layout
	MaxFrame int
	// Framer is the server's where it has one instead of a Layout, such as codec.Varint's. Its
	// frames need handles.
	Framer codec.Framer
	// Serializer of calls; default JSON.
	Serializer serial.Serializer
	// Heartbeat is how long the server may be silent before it gets a PING, and
	// again before the connection is given up; default 15 s, below 0 none.
	Heartbeat time.Duration
	// DialTimeout bounds one attempt; default 5 s.
	DialTimeout time.Duration
	// MinBackoff and MaxBackoff bound the pause between attempts; default 50 ms, 5 s.
	MinBackoff, MaxBackoff time.Duration
	// MaxCalls bounds the calls that are under way; the next one waits. Default 65,536.
	MaxCalls int
	// MaxUnsent bounds the bytes that wait to be written, in bytes; a call or
	// Send over it waits. Default 1 MiB.
	MaxUnsent int
	// Resume has a session outlive its connection for so long, which should be the server's own
	// time: calls under way go on over the next connection, and pushes are neither lost nor
	// doubled. See the package's comment. Default 0 and below: off.
	Resume time.Duration
	// MaxUnacked bounds the bytes that Resume keeps to send again, which the server has not
	// acknowledged; a call or Send over it waits. A server acknowledges after 64 frames or a
	// second, and with each answer: if frames without an answer are to flow, it should hold 64.
	// Default 4 MiB.
	MaxUnacked int
	// NoReconnect ends the client with its first connection.
	NoReconnect bool
	// TLS is for tls:// and wss://; default: the system's authorities, the host's name.
	TLS *tls.Config
	// Dialer opens the sockets; default net.Dialer.
	Dialer DialFunc
	// MaxLate is how long the answer of a call that was given up may take, where answers are
	// matched by order. The connection ends when it has not come by then and no later call
	// on the handle was answered. Default 2 min: servers end what they owe sooner.
	MaxLate time.Duration
	// NoFollow has the client stay with Addrs whatever address a GOAWAY names. Else it goes
	// there next, to a bare HOST:PORT with the scheme and path of the address that it is at, and
	// back to Addrs if nobody answers there. It never leaves an encrypted connection for one that
	// is not.
	NoFollow bool
	// OnConnect runs on each new connection, with Resume for each new session, before other
	// calls may use it, to log in, say: calls and Sends made with its ctx use this one, and all
	// others wait until it has returned. An error ends it, and another is tried. ctx ends after
	// DialTimeout and with the connection or session.
	OnConnect func(ctx context.Context, c *Client) error
	// OnOther is told of what nobody waits for: packets of handles without On and without calls,
	// and ERRORs about what Send has sent, as they came. It runs as the functions of On do.
	OnOther func(p codec.Packet)
	// OnLost is told of the end of each connection, and with Resume of that of each session,
	// which is ErrSession: groups, timers and locks are gone, and pushes may be.
	OnLost func(err error)
}

func (c Config) withDefaults() Config {
	def := func(v *time.Duration, d time.Duration) {
		if *v == 0 {
			*v = d
		}
	}
	def(&c.Heartbeat, 15*time.Second)
	def(&c.DialTimeout, 5*time.Second)
	def(&c.MinBackoff, 50*time.Millisecond)
	def(&c.MaxBackoff, 5*time.Second)
	def(&c.MaxLate, 2*time.Minute)
	if c.Serializer == nil {
		c.Serializer = serial.JSON(serial.Limits{})
	}
	if c.MaxCalls == 0 {
		c.MaxCalls = 1 << 16
	}
	if c.MaxUnsent == 0 {
		c.MaxUnsent = 1 << 20
	}
	if c.MaxUnacked == 0 {
		c.MaxUnacked = 4 << 20
	}
	if c.Dialer == nil {
		c.Dialer = new(net.Dialer).DialContext
	}
	return c
}

// validate names every fault of a Config with its defaults.
func (c Config) validate() error {
	var errs []error
	if len(c.Addrs) == 0 {
		errs = append(errs, errors.New("client: Addrs: name an address at least"))
	}
	for _, f := range []struct {
		name  string
		value int
	}{{"MaxCalls", c.MaxCalls}, {"MaxUnsent", c.MaxUnsent}, {"MaxUnacked", c.MaxUnacked}} {
		if f.value < 1 {
			errs = append(errs, fmt.Errorf("client: %s %d: must be at least 1, or 0 for the default", f.name, f.value))
		}
	}
	if c.Framer != nil && !c.Framer.Handles() {
		errs = append(errs, errors.New("client: a Framer without handles: answers can't be told apart; use codec.NewFramerReader and Writer"))
	}
	if c.Resume > 0 && c.NoReconnect {
		errs = append(errs, errors.New("client: Resume with NoReconnect: there is no next connection; set one of them"))
	}
	return errors.Join(errs...)
}

// Errors of a client.
var (
	// ErrClosed: Close was called, or the connection ended with NoReconnect. It
	// is net.ErrClosed.
	ErrClosed = fmt.Errorf("client: %w", net.ErrClosed)
	// ErrLost: the connection ended while the call was under way, with Resume the session; the
	// server may or may not have executed it.
	ErrLost = errors.New("client: connection lost")
	// ErrSession, with Resume: the session has ended, and the next connection has a new one.
	// It comes together with ErrLost.
	ErrSession = errors.New("session lost")
	// ErrGoAway: the server has said GOAWAY, and the client has left it. It comes together with
	// ErrLost.
	ErrGoAway = errors.New("the server is going away")
	// ErrTakenOver: another connection goes on with the session. It comes together with
	// ErrSession, over a WebSocket; else it is not told from a broken connection.
	ErrTakenOver = errors.New("another connection has taken it over")
)

// ErrMixed: Send has been used on the handle, on this connection, or On is, and without
// sequence numbers a call's answer can't be told from what comes of these.
var ErrMixed = errors.New("client: calls on a handle of Send or On need a layout with sequence numbers")

// Error is an ERROR frame of the server.
type Error struct {
	Code   uint16 // as in the protocol: 3 bad_body, 8 unauthorised, …
	Handle uint32 // the request's; 0: about the connection
	Text   string
}

func (e *Error) Error() string {
	return fmt.Sprintf("client: error %d about %d/%d: %s", e.Code, e.Handle>>16, e.Handle&0xffff, e.Text)
}
