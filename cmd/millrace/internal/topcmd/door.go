package topcmd

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"millrace/services/admin"
)

// TokenEnv is the variable that a token may be in. It is no setting of serve, and may stand
// in its environment.
const TokenEnv = "MILLRACE_ADMIN_TOKEN"

// doorFlags say where the operator's door of a server is.
type doorFlags struct {
	Addr string `arg:"" help:"The server's --admin: HOST:PORT, or unix:PATH of its socket."`

	TokenFile string `placeholder:"FILE" help:"The token that the server asks for, as in its --admin-token-file (none)."`
	Token     string `placeholder:"TOKEN" env:"MILLRACE_ADMIN_TOKEN" help:"The same as text; others on this machine see a command line, so put it into the variable (none)."`
}

// The exit codes, as docs/exit-codes.md has them.
const (
	usage    = 64
	noServer = 69
	protocol = 76
)

// failure is an error that says what the process ends with.
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

// connect makes a client of the flags. Nothing is dialled yet.
func (f *doorFlags) connect() (*admin.Client, error) {
	if f.TokenFile != "" {
		b, err := os.ReadFile(f.TokenFile)
		if err != nil {
			return nil, fail(usage, "--token-file: %w", err)
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

// word words an error of a request, and says what the process ends with.
func (f *doorFlags) word(err error) error {
	var no *admin.StatusError
	switch {
	case !errors.As(err, &no):
		return fail(noServer, "%s: %s; is the server's --admin there?", f.Addr, strings.TrimPrefix(err.Error(), "admin: "))
	case no.Status == http.StatusUnauthorized && f.Token == "":
		return fail(usage, "%s asks for a token; give --token-file or %s", f.Addr, TokenEnv)
	case no.Status == http.StatusUnauthorized:
		return fail(usage, "%s does not take this token; see the server's --admin-token-file", f.Addr)
	case no.Status == http.StatusBadRequest:
		return fail(usage, "%s", no.Text)
	default:
		return fail(protocol, "%s answers %w; is it the server's --admin?", f.Addr, no)
	}
}
