package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"sync"
	"time"
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

// pipeTime is how long a file that is none, such as a pipe, may take to be read.
const pipeTime = 10 * time.Second

// readFile reads a file that an operator has named, which may be any other than was meant.
func readFile(name string, most int64) ([]byte, error) {
	type result struct {
		b   []byte
		err error
	}
	read := make(chan result, 1)
	go func() {
		b, err := readAll(name, most)
		read <- result{b, err}
	}()
	var late <-chan time.Time
	if info, err := os.Stat(name); err == nil && !info.Mode().IsRegular() {
		late = time.After(pipeTime)
	}
	select {
	case r := <-read:
		return r.b, r.err
	case <-late:
		return nil, fmt.Errorf("it is not a regular file, and nothing has arrived for %v; is it the right one?", pipeTime)
	}
}

func readAll(name string, most int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(b)) > most {
		return nil, fmt.Errorf("longer than %v; is it the right file?", size(most))
	}
	return b, err
}

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
			if info, err := os.Stat(name); name != "" && err == nil && !info.Mode().IsRegular() {
				return exitf(exitUsage, "--%s %q: %w%s", x.flag, name, errNoFile, src.from(x.flag))
			}
		}
	}
	return nil
}

var errNoFile = errors.New("it is not a regular file; name one")
