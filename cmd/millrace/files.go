package main

import (
	"fmt"
	"regexp"
	"sync"

	"millrace/internal/userfile"
)

const (
	// maxConfig is how long a config file may be, in bytes.
	maxConfig = 256 << 10
	// maxParts is how many parts a key in it may have. No setting has more than one, and the time that the
	// library takes for one key grows with their square.
	maxParts = 64
)

// deep matches a key of more than maxParts parts.
var deep = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(fmt.Sprintf(`(?:(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*){%d}`, maxParts))
})

// onlyFiles refuses files that are none among those that are read more than once: a pipe would be waited
// for.
func (c *serveCmd) onlyFiles(src *sources) error {
	for _, x := range []struct {
		flag  string
		names []string
	}{
		{"tls-cert", c.TLSCert}, {"tls-key", c.TLSKey}, {"tls-client-ca", []string{c.TLSClientCA}},
		{"cluster-creds", []string{c.ClusterCreds}}, {"cluster-nkey", []string{c.ClusterNKey}}, {"cluster-tls-ca", []string{c.ClusterTLSCA}},
		{"cluster-tls-cert", []string{c.ClusterTLSCert}}, {"cluster-tls-key", []string{c.ClusterTLSKey}},
	} {
		for _, name := range x.names {
			if err := userfile.OnlyFile(name); err != nil {
				return exitf(exitUsage, "--%s %q: %w%s", x.flag, name, err, src.from(x.flag))
			}
		}
	}
	return nil
}
