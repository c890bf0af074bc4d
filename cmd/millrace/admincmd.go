package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"millrace/services/admin"
)

// adminCmd is millrace admin.
type adminCmd struct {
	TokenFile string `placeholder:"FILE" help:"File with the token of the server's --admin-token-file (none)."`
	Timeout   period `default:"5s" placeholder:"D" help:"How long to wait for the answer (${default})."`

	Addr struct {
		Addr string `arg:"" help:"The server's --admin: HOST:PORT or unix:///PATH."`

		Kick struct {
			ID     string `arg:"" help:"The session, as INDEX.ROUND."`
			Reason string `placeholder:"TEXT" help:"Text of the ERROR that its client gets (kicked)."`
		} `cmd:"" help:"Send a session ERROR 8 and close it."`
		Drain struct {
			Rate limit `default:"off" placeholder:"N" help:"Sessions sent GOAWAY in a second; off for the server's --drain-rate (${default})."`
		} `cmd:"" help:"Refuse new connections and ask sessions to reconnect elsewhere; the server keeps running."`
		Undrain struct{} `cmd:"" help:"Cancel a drain."`
		Set     struct {
			Name  string `arg:"" help:"A flag of serve that can be changed at run time, such as log-level or idle-timeout."`
			Value string `arg:"" help:"Its value."`
		} `cmd:"" help:"Change a setting."`
		Get struct {
			Path string `arg:"" help:"The path to get, such as /sessions?sort=unsent or /metrics."`
		} `cmd:"" help:"Print a page of the admin server."`
	} `arg:""`
}

// run executes the subcommand that kong named.
func (c *adminCmd) run(command string, stdout io.Writer) error {
	token := ""
	if c.TokenFile != "" {
		var err error
		if token, _, err = readToken(c.TokenFile); err != nil {
			return exitf(exitUsage, "--token-file %q: %w", c.TokenFile, err)
		}
	}
	client, err := admin.NewClient(c.Addr.Addr, token)
	if err != nil {
		return exitf(exitUsage, "ADDR %s", strings.TrimPrefix(err.Error(), "admin: "))
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(c.Timeout))
	defer cancel()
	var out []byte
	words := strings.Fields(command)
	switch words[2] {
	case "kick":
		err = client.Post(ctx, "/sessions/"+url.PathEscape(c.Addr.Kick.ID)+"/kick", map[string]string{"reason": c.Addr.Kick.Reason}, &out)
	case "drain":
		path := "/drain"
		if c.Addr.Drain.Rate > 0 {
			path += fmt.Sprintf("?rate=%d", c.Addr.Drain.Rate)
		}
		err = client.Post(ctx, path, nil, &out)
	case "undrain":
		err = client.Post(ctx, "/undrain", nil, &out)
	case "set":
		err = client.Post(ctx, "/config", map[string]string{c.Addr.Set.Name: c.Addr.Set.Value}, &out)
	case "get":
		err = client.Get(ctx, "/"+strings.TrimPrefix(c.Addr.Get.Path, "/"), &out)
	}
	if err != nil {
		return adminError(c.Addr.Addr, err)
	}
	_, err = stdout.Write(indented(out))
	return err
}

// adminError turns an error of a request into one with an exit code: the server answered with an
// error status, or did not answer.
func adminError(addr string, err error) error {
	var status *admin.StatusError
	switch {
	case errors.As(err, &status) && status.Status == http.StatusBadRequest:
		return exitf(exitUsage, "%s", status.Text)
	case errors.As(err, &status):
		return exitf(exitError, "%s answers %d: %s", addr, status.Status, status.Text)
	case errors.Is(err, context.DeadlineExceeded):
		return exitf(exitTimeout, "%s: no answer within --timeout", addr)
	}
	return exitf(exitNoServer, "%s: %s; is it the server's --admin?", addr, strings.TrimPrefix(err.Error(), "admin: "))
}

// indented returns b with its JSON indented; if b is not JSON, b itself.
func indented(b []byte) []byte {
	var v any
	if json.Unmarshal(b, &v) != nil {
		return b
	}
	pretty, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return b
	}
	return append(pretty, '\n')
}
