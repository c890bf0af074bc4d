package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
)

// The exit codes. Those above 63 follow sysexits.h.
const (
	exitOK       = 0
	exitError    = 1  // call: the server answered with an ERROR; doctor: the machine is not fit
	exitLoss     = 3  // serve: drained, but something was lost
	exitUsage    = 64 // wrong flags, variables, file or body
	exitNoServer = 69 // serve: the address is in use; call: nothing answers at the address
	exitFailed   = 70 // serve: the engine failed while running
	exitTimeout  = 75 // call: no answer in time
	exitProtocol = 76 // call: the connection ended, or the data received is not a frame
	exitSignal   = 128
)

// exitErr is an error with the exit code of the process.
type exitErr struct {
	code int
	err  error
}

func (e *exitErr) Error() string { return e.err.Error() }
func (e *exitErr) Unwrap() error { return e.err }

func exitf(code int, format string, args ...any) error {
	return &exitErr{code, fmt.Errorf(format, args...)}
}

// exitCode returns the exit code for err.
func exitCode(err error) int {
	var e *exitErr
	var coded interface{ ExitCode() int }
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &e): // before what it wraps: kong's errors have codes of their own
		return e.code
	case errors.As(err, &coded):
		return coded.ExitCode()
	default:
		return exitFailed
	}
}

// oneLine puts the lines of an errors.Join onto one line, and escapes other control characters.
func oneLine(err error) string {
	var b strings.Builder
	for _, r := range strings.ReplaceAll(err.Error(), "\n", "; ") {
		if unicode.IsControl(r) {
			q := strconv.QuoteRune(r)
			b.WriteString(q[1 : len(q)-1])
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}
