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
	TokenFile string `placeholder:"FILE" help:"The token, where the server has --admin-token-file (none)."`
	Timeout   period `default:"5s" placeholder:"D" help:"For the answer (${default})."`

	Addr struct {
		Addr string `arg:"" help:"The server's --admin: HOST:PORT or unix:///PATH."`

		Kick struct {
			ID     string `arg:"" help:"The session, as INDEX.ROUND."`
			Reason string `placeholder:"TEXT" help:"What its client is told (kicked)."`
		} `cmd:"" help:"Close a session behind an ERROR 8."`
		Drain struct {
			Rate limit `default:"off" placeholder:"N" help:"Sessions told GOAWAY in a second; off for what --drain-rate says (${default})."`
		} `cmd:"" help:"Refuse connections and have the sessions go elsewhere; the server runs on."`
		Undrain struct{} `cmd:"" help:"Take a drain back."`
		Set     struct {
			Name  string `arg:"" help:"A flag of serve's that can be changed while it runs, such as log-level or idle-timeout."`
			Value string `arg:"" help:"Its value."`
		} `cmd:"" help:"Change a setting."`
		Get struct {
			Path string `arg:"" help:"What to ask for, such as /sessions?sort=unsent or /metrics."`
		} `cmd:"" help:"Print what the server says."`
	} `arg:""`
}

// run does what command, as kong names it, says.
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
		return exitf(exitUsage, "%s", strings.TrimPrefix(err.Error(), "admin: "))
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

// adminError says what a door answered, or that nobody does.
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

// indented is JSON for people; what is none stays as it is.
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
