package topcmd

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"millrace/internal/userfile"
	"millrace/services/admin"
)

// TokenEnv is the environment variable for the token. It is not a setting of serve, but may be
// present in serve's environment.
const TokenEnv = "MILLRACE_ADMIN_TOKEN"

// doorFlags give the address of a server's admin server.
type doorFlags struct {
	Addr string `arg:"" help:"The server's --admin: HOST:PORT, or unix:PATH of its unix socket."`

	TokenFile string `placeholder:"FILE" help:"File with the token of the server's --admin-token-file (none)."`
	Token     string `placeholder:"TOKEN" env:"MILLRACE_ADMIN_TOKEN" help:"The token itself; other users can see command lines, so use the variable (none)."`
}

// The exit codes, as in docs/exit-codes.md.
const (
	usage    = 64
	noServer = 69
	noAnswer = 75
	protocol = 76
)

// failure is an error with an exit code.
type failure struct {
	code int
	err  error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }
func (f *failure) ExitCode() int { return f.code }

func fail(code int, format string, args ...any) error {
	return &failure{code, fmt.Errorf(format, args...)}
}

// connect creates a client from the flags. It does not connect yet.
func (f *doorFlags) connect() (*admin.Client, error) {
	if f.TokenFile != "" {
		b, err := userfile.Read(f.TokenFile, userfile.MaxToken)
		if err != nil {
			var path *os.PathError
			if errors.As(err, &path) {
				err = path.Err
			}
			return nil, fail(usage, "--token-file %q: %w", f.TokenFile, err)
		}
		if f.Token = strings.TrimSpace(string(b)); f.Token == "" {
			return nil, fail(usage, "--token-file %q: it is empty; name the file of the server's --admin-token-file", f.TokenFile)
		}
	}
	addr := f.Addr
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		abs, err := filepath.Abs(strings.TrimPrefix(path, "//"))
		if path == "" || path == "//" {
			err = errors.New("must be unix:PATH of a socket, or HOST:PORT")
		}
		if err != nil {
			return nil, fail(usage, "ADDR %q: %w", addr, err)
		}
		addr = "unix://" + abs
	}
	c, err := admin.NewClient(addr, f.Token)
	if err != nil {
		return nil, fail(usage, "ADDR %q: must be HOST:PORT as in --admin, such as 127.0.0.1:7070, or unix:PATH", f.Addr)
	}
	return c, nil
}

// word adds an exit code and advice to an error of a request.
func (f *doorFlags) word(err error) error {
	var no *admin.StatusError
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fail(noAnswer, "%s: no answer within --timeout", f.Addr)
	case !errors.As(err, &no):
		return fail(noServer, "%s: %s; is it the server's --admin?", f.Addr, strings.TrimPrefix(err.Error(), "admin: "))
	case no.Status == http.StatusUnauthorized && f.Token == "":
		return fail(usage, "%s requires a token; give --token-file or %s", f.Addr, TokenEnv)
	case no.Status == http.StatusUnauthorized:
		return fail(usage, "%s does not accept this token; see the server's --admin-token-file", f.Addr)
	case no.Status == http.StatusBadRequest:
		return fail(usage, "%s", no.Text)
	default:
		return fail(protocol, "%s answers %w; is it the server's --admin?", f.Addr, no)
	}
}
