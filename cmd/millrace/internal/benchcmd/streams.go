package benchcmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"millrace/bench"
)

// Streams is where the commands write: results to Out, progress and remarks to Err.
type Streams struct{ Out, Err io.Writer }

// Exit codes.
const (
	exitVerdict   = 1
	exitUsage     = 64
	exitInterrupt = 130
)

// exitError is an error with the code to exit with.
type exitError struct {
	code int
	text string
}

func (e *exitError) Error() string { return e.text }

// ExitCode is what the process should end with.
func (e *exitError) ExitCode() int { return e.code }

func verdict(format string, args ...any) error {
	return &exitError{exitVerdict, fmt.Sprintf(format, args...)}
}

func wrongUsage(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Sprintf(format, args...)}
}

// untilInterrupt is a context that the first SIGINT or SIGTERM ends.
func untilInterrupt() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
}

// interrupted turns the end of such a context into an exit code.
func interrupted(err error) error {
	if errors.Is(err, context.Canceled) {
		return &exitError{exitInterrupt, "interrupted; what was measured until then is shown"}
	}
	return err
}

// writeAll writes the tables to out, and the page and the picture where they are wanted.
func writeAll(res *bench.Results, out io.Writer, tables func(io.Writer) error, html, svg string) error {
	err := tables(out)
	if html != "" {
		err = errors.Join(err, writeFile(html, res.WriteHTML))
	}
	if svg != "" {
		err = errors.Join(err, writeFile(svg, res.WriteSVG))
	}
	return err
}

// writeFile writes through a new file that takes path's place only when it is whole.
func writeFile(path string, write func(io.Writer) error) error {
	w, err := newFile(path)
	if err != nil {
		return err
	}
	if err := write(w); err != nil {
		return errors.Join(err, w.drop())
	}
	return w.place()
}

// replacement is a file on its way to path. What is no regular file, as /dev/null or a pipe, is written to directly.
type replacement struct {
	*os.File
	path string
	temp string // "" when it has taken its place
}

func newFile(path string) (*replacement, error) {
	r := &replacement{path: path, temp: path + ".new"}
	if st, err := os.Stat(path); err == nil && !st.Mode().IsRegular() {
		r.temp = ""
		r.File, err = os.OpenFile(path, os.O_WRONLY, 0)
		return r, err
	}
	var err error
	r.File, err = os.Create(r.temp)
	return r, err
}

// settle lets the file take its place; it may still be written to.
func (r *replacement) settle() error {
	if r.temp == "" {
		return nil
	}
	temp := r.temp
	r.temp = ""
	return os.Rename(temp, r.path)
}

// place closes the file and lets it take its place.
func (r *replacement) place() error { return errors.Join(r.Close(), r.settle()) }

// drop closes the file and removes it, unless it has taken its place.
func (r *replacement) drop() error {
	err := r.Close()
	if r.temp != "" {
		err = errors.Join(err, os.Remove(r.temp))
	}
	return err
}

// assignment splits NAME=REST.
func assignment(s string) (name, rest string, err error) {
	name, rest, ok := strings.Cut(s, "=")
	if !ok || name == "" {
		return "", "", wrongUsage("%q: want NAME=…", s)
	}
	return name, rest, nil
}
