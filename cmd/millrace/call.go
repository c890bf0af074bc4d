package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"millrace/cmd/millrace/internal/certs"
	"millrace/codec"
	"millrace/internal/userfile"
	"millrace/services/client"
)

// tlsFlags configure TLS of a client.
type tlsFlags struct {
	TLSCA       string `name:"tls-ca" placeholder:"FILE" help:"CA certificates, PEM, to verify the server with (the system's)."`
	TLSCert     string `name:"tls-cert" placeholder:"FILE" help:"Client certificate, PEM (none)."`
	TLSKey      string `name:"tls-key" placeholder:"FILE" help:"Key of --tls-cert, PEM."`
	TLSInsecure bool   `name:"tls-insecure" help:"Do not verify the server's certificate, for trials (false)."`
}

// callCmd is millrace call.
type callCmd struct {
	frameFlags

	Addr   string `arg:"" help:"The server: HOST:PORT, tcp://HOST:PORT, unix:///PATH, tls://HOST:PORT, ws://HOST:PORT[/PATH] or wss://HOST:PORT[/PATH]."`
	Handle string `arg:"" optional:"" help:"MAIN/SUB of the frame to send. With --listen it may be left out."`
	Body   string `arg:"" optional:"" help:"The body as text; @FILE reads a file, - reads standard input."`

	Resume  period `placeholder:"D" help:"Resume the session for up to D after the connection is lost, if the server has --resume too (off)."`
	Listen  bool   `help:"Keep printing frames until the server closes or Ctrl-C (false)."`
	Timeout period `default:"5s" placeholder:"D" help:"To connect, and to wait for the answer (${default})."`
	tlsFlags

	Hex      bool `help:"BODY is hexadecimal, and bodies are printed in hexadecimal (false)."`
	MaxFrame size `default:"64KiB" placeholder:"BYTES" help:"Largest length of a frame (${default})."`
}

func (c *callCmd) run(stdout io.Writer) error {
	req, err := c.request()
	if err != nil {
		return &exitErr{exitUsage, err}
	}
	max := int(c.MaxFrame)
	if max == codec.DefaultMaxFrame {
		max = 0
	}
	form, err := c.form(max)
	if err != nil {
		return err
	}
	if req != nil {
		err := form.Check(*req)
		switch {
		case errors.Is(err, codec.ErrBodyTooLarge):
			return exitf(exitUsage, "BODY of %d bytes: at most %d fit a frame; give a larger --max-frame if the server has one", len(req.Body), form.MaxBody())
		case errors.Is(err, codec.ErrBadHandle):
			if c.Framing != "length" {
				return exitf(exitUsage, "MAIN/SUB %q: --framing %s has no handles; give 0/0", c.Handle, c.Framing)
			}
			return exitf(exitUsage, "MAIN/SUB %q: 0 to 255 each with --command=main-sub-8", c.Handle)
		case err != nil:
			return exitf(exitUsage, "%w", err)
		}
	}
	l := &listener{form: form, out: stdout, hex: c.Hex, done: make(chan struct{}), order: form.ByteOrder()}
	if c.Resume > 0 {
		return c.resumed(l, req, max)
	}
	if l.conn, err = c.dial(); err != nil {
		return err
	}
	defer l.conn.Close()
	defer close(l.done)
	if req != nil {
		if err := l.send(*req); err != nil {
			return err
		}
	}
	frames, end := l.read()
	return c.wait(l, req, frames, end)
}

// form returns the codec of the server's frames.
func (c *callCmd) form(maxFrame int) (*codec.Codec, error) {
	framer, err := c.framer(maxFrame, &sources{})
	if err != nil {
		return nil, err
	}
	form, err := codec.New(c.layout(), maxFrame)
	if err == nil && framer != nil {
		form, err = codec.Framed(framer, maxFrame)
	}
	if err != nil {
		return nil, startError(err, &sources{})
	}
	return form, nil
}

// request returns the frame to send, nil if there is none.
func (c *callCmd) request() (*codec.Packet, error) {
	if c.Handle == "" {
		if c.Listen {
			return nil, nil
		}
		return nil, errors.New("MAIN/SUB is missing, such as 1/1; it can be omitted only with --listen")
	}
	h, err := parseHandle(c.Handle)
	if err != nil {
		return nil, fmt.Errorf("MAIN/SUB %q: %w", c.Handle, err)
	}
	body, err := c.body()
	if err != nil {
		return nil, err
	}
	p := &codec.Packet{Main: h.main, Sub: h.sub, Body: body}
	if c.layout().Seq {
		p.Seq = 1
	}
	return p, nil
}

func (c *callCmd) body() ([]byte, error) {
	switch {
	case c.Body == "-":
		b, err := io.ReadAll(io.LimitReader(os.Stdin, int64(c.MaxFrame)+1))
		if err != nil {
			return nil, fmt.Errorf("BODY from standard input: %w", err)
		}
		return b, nil
	case strings.HasPrefix(c.Body, "@"):
		b, err := userfile.Read(c.Body[1:], int64(c.MaxFrame))
		if err != nil {
			return nil, fmt.Errorf("BODY %q: %w", c.Body, err)
		}
		return b, nil
	case c.Hex:
		b, err := hex.DecodeString(strings.ReplaceAll(c.Body, " ", ""))
		if err != nil {
			return nil, fmt.Errorf("BODY %q: with --hex it must be hexadecimal, such as 00ff", c.Body)
		}
		return b, nil
	default:
		return []byte(c.Body), nil
	}
}

// wait prints received frames until the answer has arrived or, with --listen, until the connection
// ends.
func (c *callCmd) wait(l *listener, req *codec.Packet, frames <-chan codec.Packet, end <-chan error) error {
	interrupted := make(chan os.Signal, 1)
	if c.Listen {
		signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
		defer signal.Stop(interrupted)
	}
	deadline := time.NewTimer(time.Duration(c.Timeout))
	defer deadline.Stop()
	late := deadline.C
	if req == nil {
		late = nil
	}
	var result error
	answered := false
	for {
		select {
		case p := <-frames:
			l.print(p)
			if req != nil && !answered && l.answers(p, *req) {
				answered, late, result = true, nil, l.refusal(p)
				if !c.Listen {
					return result
				}
			}
		case err := <-end:
			switch {
			case req != nil && !answered:
				return exitf(exitProtocol, "%s: the connection ended before the answer: %w", c.Addr, err)
			case errors.Is(err, io.EOF):
				return result
			}
			return exitf(exitProtocol, "%s: the connection ended: %w", c.Addr, err)
		case <-late:
			return exitf(exitTimeout, "%s: no answer to %s within --timeout %s", c.Addr, c.Handle, c.Timeout)
		case <-interrupted:
			return result
		}
	}
}

// checkAddr checks an address. by is the flag or argument to name in the error.
func checkAddr(by, addr string) error {
	scheme, host, ok := strings.Cut(addr, "://")
	if !ok {
		scheme, host = "tcp", addr
	}
	switch scheme {
	case "tcp", "tcp4", "tcp6", "tls", "ws", "wss":
		if scheme == "ws" || scheme == "wss" {
			host, _, _ = strings.Cut(host, "/")
		}
		_, port, err := net.SplitHostPort(host)
		if err != nil {
			return exitf(exitUsage, "%s %q: must be HOST:PORT, such as 127.0.0.1:7000 or [::1]:7000", by, addr)
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return exitf(exitUsage, "%s %q: the port must be 1 to 65535", by, addr)
		}
	case "unix", "tls+unix", "ws+unix", "wss+unix":
	default:
		return exitf(exitUsage, "%s %q: must be HOST:PORT, tcp://HOST:PORT, unix:///PATH, tls://, ws:// or wss://", by, addr)
	}
	return nil
}

// dial connects over the transport that the address names.
func (c *callCmd) dial() (net.Conn, error) {
	if err := checkAddr("ADDR", c.Addr); err != nil {
		return nil, err
	}
	cfg, err := c.tls()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(c.Timeout))
	defer cancel()
	conn, err := client.Connect(ctx, c.Addr, cfg, nil)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for begun := time.Now(); startsYet(err) && time.Since(begun) < startWait && ctx.Err() == nil; <-tick.C {
		conn, err = client.Connect(ctx, c.Addr, cfg, nil)
	}
	if err != nil {
		return nil, c.noServer(err)
	}
	return conn, nil
}

// noServer says which address could not be connected to, and what may be the reason.
func (c *callCmd) noServer(err error) error {
	from, hint := "", ""
	scheme, host, _ := strings.Cut(c.Addr, "://")
	if !strings.Contains(err.Error(), cmp.Or(host, scheme)) {
		from = c.Addr + ": "
	}
	if bad := (tls.RecordHeaderError{}); errors.As(err, &bad) || strings.Contains(err.Error(), "malformed HTTP") {
		hint = fmt.Sprintf("; does the server listen for %s:// there?", scheme)
	}
	return exitf(exitNoServer, "%s%w%s", from, err, hint)
}

// startWait is how long call waits for a server that has been started just before it.
var startWait = time.Second

// startsYet reports whether nobody listens, which may be as the server only starts.
func startsYet(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist)
}

func (c *tlsFlags) tls() (*tls.Config, error) {
	cfg := &tls.Config{InsecureSkipVerify: c.TLSInsecure}
	if c.TLSCA != "" {
		pool, err := certs.Pool(c.TLSCA)
		if err != nil {
			return nil, exitf(exitUsage, "--tls-ca %q: %w; name a file of certificates in PEM", c.TLSCA, err)
		}
		cfg.RootCAs = pool
	}
	if c.TLSCert != "" || c.TLSKey != "" {
		pair, err := userfile.KeyPair(c.TLSCert, c.TLSKey)
		if err != nil {
			return nil, exitf(exitUsage, "--tls-cert %q, --tls-key %q: %w; name a certificate and its key, both in PEM", c.TLSCert, c.TLSKey, err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}
