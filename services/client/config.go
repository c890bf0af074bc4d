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

// Config configures a client. Zero fields mean the defaults.
type Config struct {
	// Addrs are addresses as for Connect: tcp://host:port, unix:///path, tls://, ws:// or wss://;
	// an address without :// is host:port. They are tried in turn.
	Addrs []string
	// Layout and MaxFrame are those of the server; default: the default frame, and 64 KiB or what
	// its length field allows.
	Layout   codec.Layout
	MaxFrame int
	// Framer is the server's framer, if it uses one instead of a Layout, such as codec.Varint's.
	// Its frames must have handles.
	Framer codec.Framer
	// Serializer is used by calls; default JSON.
	Serializer serial.Serializer
	// Heartbeat is how long the server may be silent before the client sends a PING, and again
	// before it closes the connection; default 15 s, negative for none.
	Heartbeat time.Duration
	// DialTimeout limits one attempt to connect; default 5 s.
	DialTimeout time.Duration
	// MinBackoff and MaxBackoff limit the delay between attempts; default 50 ms, 5 s.
	MinBackoff, MaxBackoff time.Duration
	// MaxCalls limits the calls in progress; further ones wait. Default 65,536.
	MaxCalls int
	// MaxUnsent limits the bytes waiting to be written; a call or Send above it waits. Default 1
	// MiB.
	MaxUnsent int
	// Resume is how long a session may be resumed after its connection is lost; it should be the
	// server's own setting. Calls in progress continue on the next connection, and pushes are
	// neither lost nor duplicated. See the package comment. Default: off.
	Resume time.Duration
	// MaxUnacked limits the bytes that Resume keeps for resending because the server has not
	// acknowledged them; a call or Send above it waits. A server acknowledges after 64 frames or a
	// second, and with each answer: to send frames without answers at a high rate, it should hold
	// at least 64. Default 4 MiB.
	MaxUnacked int
	// NoReconnect ends the client when its first connection ends.
	NoReconnect bool
	// TLS configures tls:// and wss://; default: the system's CA certificates, and the host as
	// server name.
	TLS *tls.Config
	// Dialer opens the sockets; default net.Dialer.
	Dialer DialFunc
	// MaxLate is how long the answer of an abandoned call may take, if answers are matched by
	// order. The connection is closed when the answer has not arrived by then and no later call on
	// the handle was answered. Default 2 min, longer than servers take.
	MaxLate time.Duration
	// NoFollow makes the client ignore the address in a GOAWAY. By default it connects to that
	// address next, using the scheme and path of its present address for a bare HOST:PORT, and
	// returns to Addrs if that fails. It never follows from an encrypted to an unencrypted
	// connection.
	NoFollow bool
	// OnConnect runs on each new connection, with Resume for each new session, before other calls
	// may use it, for example to log in: calls and Sends with its ctx use this connection, and all
	// others wait until it has returned. If it returns an error, the connection is closed and
	// another attempt is made. ctx ends after DialTimeout and with the connection or session.
	OnConnect func(ctx context.Context, c *Client) error
	// OnOther is called with packets that have no receiver: packets of handles without On and
	// without calls, and ERRORs for packets sent with Send, in order of arrival. It runs on the
	// reading goroutine, like the functions of On.
	OnOther func(p codec.Packet)
	// OnLost is called at the end of each connection and, with Resume, of each session, with an
	// error that is ErrSession: groups, timers and locks are lost, and pushes may be.
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

// validate reports every fault of a Config after withDefaults.
func (c Config) validate() error {
	var errs []error
	if len(c.Addrs) == 0 {
		errs = append(errs, errors.New("client: Addrs: give at least one address"))
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
		errs = append(errs, errors.New("client: a Framer without handles: answers can't be matched to calls; use codec.NewFramerReader and Writer"))
	}
	if c.Resume > 0 && c.NoReconnect {
		errs = append(errs, errors.New("client: Resume with NoReconnect: there is no next connection; set one of them"))
	}
	return errors.Join(errs...)
}

// Errors of a client.
var (
	// ErrClosed: Close was called, or the connection ended with NoReconnect. It is net.ErrClosed
	// too.
	ErrClosed = fmt.Errorf("client: %w", net.ErrClosed)
	// ErrLost: the connection (with Resume, the session) ended while the call was in progress; the
	// server may or may not have executed it.
	ErrLost = errors.New("client: connection lost")
	// ErrSession, with Resume: the session has ended, and the next connection has a new one. An
	// error that is ErrSession is ErrLost too.
	ErrSession = errors.New("session lost")
	// ErrGoAway: the server sent GOAWAY, and the client closed the connection. An error that is
	// ErrGoAway is ErrLost too.
	ErrGoAway = errors.New("the server is going away")
	// ErrTakenOver: another connection has resumed the session. The error is ErrSession too. It is
	// reported only over WebSocket; otherwise this looks like a lost connection.
	ErrTakenOver = errors.New("another connection has taken it over")
)

// ErrMixed: the handle is used with Send or On on this connection, and without sequence numbers a
// call's answer can't be distinguished from their packets.
var ErrMixed = errors.New("client: calls on a handle of Send or On need a layout with sequence numbers")

// Error is an ERROR frame of the server.
type Error struct {
	Code   uint16 // as in the protocol: 3 bad_body, 8 unauthorised, …
	Handle uint32 // that of the request; 0: it concerns the connection
	Text   string
}

func (e *Error) Error() string {
	return fmt.Sprintf("client: error %d about %d/%d: %s", e.Code, e.Handle>>16, e.Handle&0xffff, e.Text)
}
