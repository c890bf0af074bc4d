// Package userfile reads files that a user has named, which may be other ones than were meant: a
// pipe that nobody writes to, a device without an end, a very large file.
package userfile

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// How long a file may be, in bytes.
const (
	MaxPEM   = 4 << 20 // certificates, or a key
	MaxToken = 4 << 10 // a token: a request must hold it
)

// pipeTime is how long a file that is none, such as a pipe, may take to be read.
const pipeTime = 10 * time.Second

// ErrNoFile: a file that is read more than once is a pipe or a device.
var ErrNoFile = errors.New("it is not a regular file; name one")

// Read reads a file of at most most bytes; a longer one is an error. A pipe, or another file that is not
// regular, is an error if it has not been read to its end in 10 s; the goroutine that reads it is left
// behind then. The error of a file that can't be opened or read is an *fs.PathError, others don't name
// the file. The caller owns the bytes.
func Read(name string, most int64) ([]byte, error) {
	if OnlyFile(name) == nil {
		return readAll(name, most)
	}
	type result struct {
		b   []byte
		err error
	}
	read := make(chan result, 1)
	go func() {
		b, err := readAll(name, most)
		read <- result{b, err}
	}()
	select {
	case r := <-read:
		return r.b, r.err
	case <-time.After(pipeTime):
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
		return nil, fmt.Errorf("longer than %s; is it the right file?", amount(most))
	}
	return b, err
}

func amount(n int64) string {
	if n%1024 == 0 {
		return fmt.Sprint(n/1024, "KiB")
	}
	return fmt.Sprint(n, " bytes")
}

// OnlyFile returns ErrNoFile if the file exists and is no regular one.
func OnlyFile(name string) error {
	if info, err := os.Stat(name); err == nil && !info.Mode().IsRegular() {
		return ErrNoFile
	}
	return nil
}

// KeyPair is tls.LoadX509KeyPair with Read.
func KeyPair(cert, key string) (tls.Certificate, error) {
	c, err := Read(cert, MaxPEM)
	if err != nil {
		return tls.Certificate{}, err
	}
	k, err := Read(key, MaxPEM)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(c, k)
}
