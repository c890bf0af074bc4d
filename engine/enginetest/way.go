package enginetest

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"strings"
	"time"
)

// Way is how a client connects to a server. The protocol of the address is used automatically: TLS
// for tls:// and wss://, WebSocket for ws:// and wss://.
type Way struct {
	Path Path // zero: Options.Path
	Addr int  // index into Config.Addrs

	// TLS and WebSocket select the protocol for an auto:// address.
	TLS, WebSocket bool
	// Config is the client's TLS configuration; nil: any certificate is accepted.
	Config *tls.Config
}

// DialBy is Dial with a given Way.
func (w *World) DialBy(srv *Server, way Way) *Client {
	c := w.newClient(srv, way)
	c.connect()
	return c
}

// checked returns way with its defaults.
func (w *World) checked(srv *Server, way Way) Way {
	if n := len(srv.cfg.Addrs); way.Addr < 0 || way.Addr >= n {
		w.Fatalf("a client dials address %d; there are %d", way.Addr, n)
	}
	if way.Path == (Path{}) {
		way.Path = w.path
	}
	way.Path = way.Path.withDefaults()
	return way
}

// layers returns the protocols of a client that connects this way; nil: none.
func (way Way) layers(c *Client) *layers {
	scheme, rest, _ := strings.Cut(c.srv.cfg.Addrs[way.Addr], "://")
	x := &layers{c: c}
	auto := scheme == "auto"
	if scheme == "tls" || scheme == "wss" || auto && way.TLS {
		cfg := way.Config
		if cfg == nil {
			cfg = &tls.Config{InsecureSkipVerify: true} // there are no impostors in a simulation
		}
		x.tls = newTLSClient(c.conn, cfg)
	}
	if scheme == "ws" || scheme == "wss" || auto && way.WebSocket {
		host, path, _ := strings.Cut(rest, "/")
		x.ws = &wsClient{w: c.w, out: x.lower, host: host, path: "/" + path, deflate: c.srv.cfg.Deflate}
	}
	if x.tls == nil && x.ws == nil {
		return nil
	}
	return x
}

// TLS returns the configuration that a server needs for addresses with TLS, with a certificate of
// its own.
func (w *World) TLS() *tls.Config {
	// Ed25519 signatures are deterministic; RSA and ECDSA use randomness.
	pub, key, err := ed25519.GenerateKey(nil)
	w.Check(err)
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "enginetest"}, DNSNames: []string{"enginetest"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(10, 0, 0),
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, pub, key)
	w.Check(err)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}
