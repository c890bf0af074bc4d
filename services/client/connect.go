package client

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/coder/websocket"
)

// DialFunc opens the socket of a connection, such as net.Dialer.DialContext.
type DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error)

// Connect opens a connection to a server: tcp://host:port, unix:///path, tls://host:port,
// ws://host:port/path or wss://host:port/path; tls+unix, ws+unix and wss+unix for a server on a
// unix socket, with the WebSocket's path after a colon. An address without :// is host:port. The
// connection's Read and Write use the stream of frames. ctx limits only the opening. cfg may be
// nil; the TLS server name is the host unless cfg sets it.
func Connect(ctx context.Context, addr string, cfg *tls.Config, dial DialFunc) (net.Conn, error) {
	scheme, rest, ok := strings.Cut(addr, "://")
	if !ok {
		scheme, rest = "tcp", addr
	}
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	scheme, onUnix := strings.CutSuffix(scheme, "+unix")
	network, address, path := "tcp", rest, ""
	host := "localhost"
	if onUnix {
		network = "unix"
		address, path, _ = strings.Cut(rest, ":")
	} else if scheme == "ws" || scheme == "wss" {
		address, path, _ = strings.Cut(rest, "/")
		path = "/" + path
	}
	if h, _, err := net.SplitHostPort(address); err == nil && !onUnix && h != "" {
		host = h
	}
	switch scheme {
	case "tls":
		raw, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		conn := tls.Client(raw, named(cfg, host))
		if err := conn.HandshakeContext(ctx); err != nil {
			_ = raw.Close()
			return nil, err
		}
		return conn, nil
	case "ws", "wss":
		if onUnix {
			if path == "" {
				path = "/"
			}
			address = host
		}
		socket, _, _ := strings.Cut(rest, ":")
		var raw net.Conn
		t := &http.Transport{TLSClientConfig: named(cfg, host), DisableKeepAlives: true, DialContext: func(ctx context.Context, n, a string) (conn net.Conn, err error) {
			if onUnix {
				n, a = "unix", socket
			}
			conn, err = dial(ctx, n, a)
			raw = conn
			return conn, err
		}}
		conn, resp, err := websocket.Dial(ctx, scheme+"://"+address+path, &websocket.DialOptions{HTTPClient: &http.Client{Transport: t}, Subprotocols: []string{"millrace"}})
		if err != nil {
			if resp != nil {
				return nil, fmt.Errorf("%s: the server answered %s", addr, resp.Status)
			}
			return nil, err
		}
		conn.SetReadLimit(-1) // the codec limits frames
		return &webSocket{websocket.NetConn(context.Background(), conn, websocket.MessageBinary), conn, raw}, nil
	}
	return dial(ctx, scheme, rest)
}

// webSocket is a WebSocket used as a stream.
type webSocket struct {
	net.Conn
	ws  *websocket.Conn
	raw net.Conn // the socket below
}

// closeWait is how long a WebSocket's peer may take to answer a close.
const closeWait = time.Second

func (c *webSocket) Close() error {
	defer time.AfterFunc(closeWait, c.abort).Stop()
	return c.Conn.Close()
}

// CloseWrite ends the writing direction. Data from the server can still be read.
func (c *webSocket) CloseWrite() error {
	go func() { _ = c.ws.Close(websocket.StatusNormalClosure, "") }() // it waits for the server's close
	return nil
}

func (c *webSocket) abort() { _ = c.raw.Close() }

// abort closes a connection without notifying the peer, which may be unreachable.
func abort(conn net.Conn) {
	if c, ok := conn.(*webSocket); ok {
		c.abort()
	}
	_ = conn.Close()
}

// named returns cfg with a server name.
func named(cfg *tls.Config, host string) *tls.Config {
	if cfg == nil {
		cfg = &tls.Config{}
	}
	cfg = cfg.Clone()
	if cfg.ServerName == "" {
		cfg.ServerName = host
	}
	return cfg
}
