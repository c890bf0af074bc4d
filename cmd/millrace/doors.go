package main

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"millrace/cmd/millrace/internal/certs"
	"millrace/engine"
)

// doorFlags configure the engine's Doors: TLS, WebSocket, PROXY protocol.
type doorFlags struct {
	TLSCert       texts  `group:"doors" name:"tls-cert" placeholder:"FILE" help:"Certificate with its chain, PEM, for tls://, wss:// and auto://. Repeatable in pairs with --tls-key: the client's server name selects the pair. Reloaded on SIGHUP and when the files change."`
	TLSKey        texts  `group:"doors" name:"tls-key" placeholder:"FILE" help:"Key of --tls-cert, PEM. Repeatable."`
	TLSSelfSigned bool   `group:"doors" name:"tls-self-signed" help:"Use a self-signed certificate for localhost, for trials (false)."`
	TLSClientCA   string `group:"doors" name:"tls-client-ca" placeholder:"FILE" help:"Require a client certificate signed by one of these CA certificates, PEM (none)."`
	TLSMin        string `group:"doors" name:"tls-min" enum:"1.2,1.3" default:"1.2" placeholder:"V" help:"Minimum version of TLS: 1.2 or 1.3 (${default})."`

	HandshakeTimeout period `group:"doors" default:"5s" placeholder:"D" help:"Timeout of a TLS handshake (${default})."`
	MaxHandshakes    count  `group:"doors" default:"256" placeholder:"N" help:"Limit of open TLS handshakes: above it, those that have waited longest for their clients are closed (${default})."`

	HandshakeRate limit `group:"doors" default:"off" placeholder:"N" help:"Limit of TLS handshakes that one address may begin in a second; more wait, or are closed after --handshake-timeout (${default})."`

	ProxyProtocol texts `group:"doors" placeholder:"CIDR,..." help:"Networks whose connections begin with a PROXY header, v1 or v2; unix for unix sockets. Repeatable (none)."`
	WSOrigin      texts `group:"doors" name:"ws-origin" placeholder:"ORIGIN" help:"Further origins whose pages may open a WebSocket: https://example.com, a host, or * for all. The server's own host always may. Repeatable (none)."`
	WSCompress    bool  `group:"doors" name:"ws-compress" help:"Offer permessage-deflate to WebSocket clients (false)."`
	WSRatio       limit `group:"doors" name:"ws-ratio" default:"200" placeholder:"N" help:"Limit of the ratio of inflated to compressed bytes of a client's messages, over a connection, checked after 16 MiB; off for no limit (${default})."`
	ForwardedFor  texts `group:"doors" placeholder:"CIDR,..." help:"Networks from which X-Forwarded-For of WebSocket requests is trusted. Repeatable (none)."`
}

// doors returns the settings of the flags, with the certificates; the Store is nil without TLS.
func (f *doorFlags) doors(src *sources) (engine.Doors, *certs.Store, error) {
	d := engine.Doors{
		HandshakeTimeout: time.Duration(f.HandshakeTimeout), MaxHandshakes: int(f.MaxHandshakes), HandshakeRate: f.HandshakeRate.engine(),
		Deflate: f.WSCompress, MaxRatio: f.WSRatio.engine(),
		ProxyFrom: f.ProxyProtocol.split(), Origins: f.WSOrigin.split(), ForwardedFrom: f.ForwardedFor.split(),
	}
	store, err := f.store(src)
	if err != nil || store == nil {
		return d, nil, err
	}
	d.TLS = &tls.Config{GetCertificate: store.GetCertificate, MinVersion: tls.VersionTLS12}
	if f.TLSMin == "1.3" {
		d.TLS.MinVersion = tls.VersionTLS13
	}
	if f.TLSClientCA != "" {
		pool, err := certs.Pool(f.TLSClientCA)
		if err != nil {
			return d, nil, exitf(exitUsage, "--tls-client-ca %q: %w; name a file of certificates in PEM%s", f.TLSClientCA, err, src.from("tls-client-ca"))
		}
		d.TLS.ClientCAs, d.TLS.ClientAuth = pool, tls.RequireAndVerifyClientCert
	}
	return d, store, nil
}

// onlyWithTLS refuses certificates that no address uses: clients would not be encrypted.
func (f *doorFlags) onlyWithTLS(a addrs, src *sources) error {
	flag := "tls-cert"
	if f.TLSSelfSigned {
		flag = "tls-self-signed"
	}
	if a.secure() || !f.TLSSelfSigned && len(f.TLSCert) == 0 {
		return nil
	}
	return exitf(exitUsage, "--%s: no --addr uses it; give one of tls://, wss:// or auto://, or leave this out%s", flag, src.from(flag))
}

func (f *doorFlags) store(src *sources) (*certs.Store, error) {
	switch {
	case len(f.TLSCert) != len(f.TLSKey):
		return nil, exitf(exitUsage, "--tls-cert is given %d times and --tls-key %d times; give them in pairs%s", len(f.TLSCert), len(f.TLSKey), src.from("tls-cert"))
	case f.TLSSelfSigned && len(f.TLSCert) > 0:
		return nil, exitf(exitUsage, "--tls-self-signed: leave it out, or leave out --tls-cert%s", src.from("tls-self-signed"))
	case f.TLSSelfSigned:
		return certs.SelfSigned()
	case len(f.TLSCert) == 0 && f.TLSClientCA != "":
		return nil, exitf(exitUsage, "--tls-client-ca %q: needs --tls-cert and --tls-key, or --tls-self-signed%s", f.TLSClientCA, src.from("tls-client-ca"))
	case len(f.TLSCert) == 0:
		return nil, nil
	}
	var pairs []certs.Pair
	for i, cert := range f.TLSCert {
		pairs = append(pairs, certs.Pair{Cert: cert, Key: f.TLSKey[i]})
	}
	s, err := certs.Load(pairs)
	if err != nil {
		return nil, exitf(exitUsage, "--tls-cert, --tls-key: %w; name a certificate and its key, both in PEM%s", err, src.from("tls-cert"))
	}
	return s, nil
}

// certificatesEvery is how often the files are checked for changed certificates.
const certificatesEvery = 2 * time.Second

// watchCertificates reloads certificates on hup and when their files change, until stop is called.
func watchCertificates(store *certs.Store, hup <-chan os.Signal, log *slog.Logger) (stop func()) {
	if store == nil {
		store = new(certs.Store)
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		store.Watch(certificatesEvery, hup, done, log)
	}()
	return func() {
		close(done)
		<-ended
	}
}

// texts holds the values of a repeatable flag.
type texts []string

func (x *texts) Decode(ctx *kong.DecodeContext) error {
	return decode(ctx, func(s string) error {
		if s == "" {
			return fmt.Errorf("needs a value")
		}
		*x = append(*x, strings.Split(s, "\n")...)
		return nil
	})
}

// split splits values that are comma-separated lists.
func (x texts) split() (out []string) {
	for _, s := range x {
		for item := range strings.SplitSeq(s, ",") {
			out = append(out, strings.TrimSpace(item))
		}
	}
	return out
}
