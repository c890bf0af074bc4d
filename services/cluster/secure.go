package cluster

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"millrace/internal/userfile"
)

// ConfigError reports an invalid setting.
type ConfigError struct {
	Field string // of Config
	Value any
	Why   string // without secrets
}

func (e *ConfigError) Error() string {
	if s, ok := e.Value.(string); ok {
		return fmt.Sprintf("cluster: %s %q: %s", e.Field, s, e.Why)
	}
	return fmt.Sprintf("cluster: %s %v: %s", e.Field, e.Value, e.Why)
}

// Errors of Start that retrying does not resolve.
var (
	// ErrRefused: the servers reject this process's credentials, or its permissions are
	// insufficient.
	ErrRefused = errors.New("cluster: the servers refuse this process")
	// ErrCertificate: one side rejects the other's certificate, or does not use TLS.
	ErrCertificate = errors.New("cluster: no TLS with the servers")
	// ErrServers: the servers lack a required feature or capacity.
	ErrServers = errors.New("cluster: the servers lack a required feature or capacity")
)

// checkFiles reads the files named in the settings, so that unusable ones are reported before
// connecting.
func (c Config) checkFiles() error {
	var errs []error
	check := func(field, name string, use func([]byte) error) {
		if name == "" {
			return
		}
		var b []byte
		err := userfile.OnlyFile(name) // it is read again at each connect
		if err == nil {
			b, err = userfile.Read(name, userfile.MaxPEM)
		}
		if err == nil {
			err = use(b)
		} else if e := (*os.PathError)(nil); errors.As(err, &e) {
			err = e.Err // the name is already in the message
		}
		if err != nil {
			errs = append(errs, &ConfigError{field, name, err.Error()})
		}
	}
	check("Creds", c.Creds, usableCreds)
	check("NKey", c.NKey, usableNKey)
	check("TLSCA", c.TLSCA, usableCA)
	check("TLSCert", c.TLSCert, func([]byte) error { return nil })
	check("TLSKey", c.TLSKey, func([]byte) error { return nil })
	switch {
	case c.Creds != "" && c.NKey != "":
		errs = append(errs, &ConfigError{"NKey", c.NKey, "Creds are given too: one of them says who this process is"})
	case c.TLSCert != "" && c.TLSKey == "":
		errs = append(errs, &ConfigError{"TLSCert", c.TLSCert, "its key, TLSKey, is missing"})
	case c.TLSKey != "" && c.TLSCert == "":
		errs = append(errs, &ConfigError{"TLSKey", c.TLSKey, "its certificate, TLSCert, is missing"})
	case len(errs) == 0 && c.TLSCert != "":
		if _, err := userfile.KeyPair(c.TLSCert, c.TLSKey); err != nil {
			errs = append(errs, &ConfigError{"TLSCert", c.TLSCert, fmt.Sprintf("with TLSKey %q: %v", c.TLSKey, err)})
		}
	}
	return errors.Join(errs...)
}

func usableCreds(b []byte) error {
	if token, err := nkeys.ParseDecoratedJWT(b); err != nil || strings.Count(token, ".") != 2 {
		return errors.New("no credentials: a user's JWT and seed, as nsc writes them")
	}
	return usableNKey(b)
}

func usableNKey(b []byte) error {
	key, err := nkeys.ParseDecoratedUserNKey(b)
	if err != nil {
		return errors.New("no seed of a user: a line that begins with SU")
	}
	key.Wipe()
	return nil
}

func usableCA(b []byte) error {
	if !x509.NewCertPool().AppendCertsFromPEM(b) {
		return errors.New("no certificate in PEM")
	}
	return nil
}

// secure returns the options for this process's credentials and for verifying the servers. The
// files are read again at each connect, except for the NKey's.
func (c Config) secure() ([]nats.Option, error) {
	var all []nats.Option
	if c.Creds != "" {
		all = append(all, nats.UserCredentials(c.Creds))
	}
	if c.NKey != "" {
		key, err := nats.NkeyOptionFromSeed(c.NKey)
		if err != nil {
			return nil, &ConfigError{"NKey", c.NKey, "no seed of a user: a line that begins with SU"}
		}
		all = append(all, key)
	}
	if c.TLSCA != "" {
		all = append(all, nats.RootCAs(c.TLSCA))
	}
	if c.TLSCert != "" {
		all = append(all, nats.ClientCert(c.TLSCert, c.TLSKey))
	}
	return all, nil
}

// refusedBy returns why the servers refused the connection, if waiting does not help; nil if it
// may.
func refusedBy(err error) error {
	for _, is := range []error{nats.ErrAuthorization, nats.ErrAuthExpired, nats.ErrAuthRevoked, nats.ErrAccountAuthExpired, nats.ErrPermissionViolation} {
		if errors.Is(err, is) {
			return fmt.Errorf("%w: %w", ErrRefused, err)
		}
	}
	var verify *tls.CertificateVerificationError
	var alert *net.OpError // the peer's alert about our certificate: crypto/tls has no type for it
	var record tls.RecordHeaderError
	if errors.As(err, &verify) || errors.As(err, &alert) && alert.Op == "remote error" || errors.As(err, &record) ||
		errors.Is(err, nats.ErrTLS) || errors.Is(err, nats.ErrSecureConnWanted) || errors.Is(err, nats.ErrSecureConnRequired) {
		return fmt.Errorf("%w: %w", ErrCertificate, err)
	}
	return nil
}
