package benchcmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"millrace/bench"
)

// Streams are the outputs of the commands: results go to Out, progress and remarks to Err.
type Streams struct{ Out, Err io.Writer }

// Exit codes.
const (
	exitVerdict   = 1
	exitUsage     = 64
	exitNoServer  = 69
	exitInterrupt = 130
)

// exitError is an error with an exit code.
type exitError struct {
	code int
	text string
}

func (e *exitError) Error() string { return e.text }

// ExitCode returns the exit code of the process.
func (e *exitError) ExitCode() int { return e.code }

func verdict(format string, args ...any) error {
	return &exitError{exitVerdict, fmt.Sprintf(format, args...)}
}

func wrongUsage(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Sprintf(format, args...)}
}

// wrongFlag says what package bench has against the value of a flag.
func wrongFlag(flag string, err error) error {
	return wrongUsage("%s: %s", flag, strings.TrimPrefix(err.Error(), "bench: "))
}

// untilInterrupt returns a context that the first SIGINT or SIGTERM cancels.
func untilInterrupt() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
}

// interrupted turns the cancellation of such a context into an exit code.
func interrupted(err error) error {
	if errors.Is(err, context.Canceled) {
		return &exitError{exitInterrupt, "interrupted; the results so far are shown"}
	}
	return err
}

// writeAll writes the tables to out, and the HTML page and the chart if requested.
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

// writeFile writes to a new file that replaces path only when it is complete.
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

// writable checks that the files of these flags can be written, before they are needed: at the end
// of a measurement it is late to learn it. Pipes and devices are not opened.
func writable(files map[string]string) error {
	for _, flag := range slices.Sorted(maps.Keys(files)) {
		path := files[flag]
		if path == "" {
			continue
		}
		if st, err := os.Stat(path); err == nil && !st.Mode().IsRegular() && !st.IsDir() {
			continue
		}
		f, err := newFile(path)
		if err == nil {
			err = f.drop()
		}
		if err != nil {
			return badFile(flag, path, err)
		}
	}
	return nil
}

// badFile says that the file of a flag can't be written.
func badFile(flag, path string, err error) error {
	var at *os.PathError
	if errors.As(err, &at) {
		err = at.Err
	}
	return wrongUsage("--%s %q: can't be written: %v", flag, path, err)
}

// replacement is a new file that will replace path. If path is not a regular file, as /dev/null or
// a pipe, it is written directly.
type replacement struct {
	*os.File
	path string
	temp string // "" when it has replaced path
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

// settle makes the file replace path; it may still be written to afterwards.
func (r *replacement) settle() error {
	if r.temp == "" {
		return nil
	}
	temp := r.temp
	r.temp = ""
	return os.Rename(temp, r.path)
}

// place closes the file and makes it replace path.
func (r *replacement) place() error { return errors.Join(r.Close(), r.settle()) }

// drop closes the file and removes it, unless it has replaced path.
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
