package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// Client sends requests to a Door. Any goroutine may use it.
//
//	c, err := admin.NewClient("127.0.0.1:7070", "")
//	var list admin.Sessions
//	err = c.Get(ctx, "/sessions?sort=unsent&limit=10", &list)
type Client struct {
	base  string
	token string
	http  *http.Client
}

// StatusError is an answer other than 200.
type StatusError struct {
	Status int
	Text   string // the server's explanation
}

func (e *StatusError) Error() string { return fmt.Sprintf("%d: %s", e.Status, e.Text) }

// maxAnswer is the longest answer that a Client reads, in bytes.
const maxAnswer = 64 << 20

// NewClient returns a client for HOST:PORT or unix:///PATH. It connects with the first request.
func NewClient(addr, token string) (*Client, error) {
	c := &Client{token: token, http: &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
	t := &http.Transport{MaxIdleConns: 1, MaxConnsPerHost: 2}
	c.http.Transport = t
	if path, ok := strings.CutPrefix(addr, "unix://"); ok {
		if !strings.HasPrefix(path, "/") {
			return nil, fmt.Errorf("admin: %q: must be unix:///PATH, the path of a socket", addr)
		}
		c.base = "http://localhost"
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		}
		return c, nil
	}
	given := addr
	addr = strings.TrimSuffix(strings.TrimPrefix(addr, "http://"), "/")
	if _, port, err := net.SplitHostPort(addr); err != nil || strings.Contains(addr, "/") || !validPort(port) {
		return nil, fmt.Errorf("admin: %q: must be HOST:PORT, or unix:///PATH", given)
	}
	c.base = (&url.URL{Scheme: "http", Host: addr}).String()
	return c, nil
}

// validPort tells whether a port is a number that TCP has.
func validPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}

// Get requests a path, and decodes the answer into v if that is not nil: JSON, or the unchanged
// bytes into a *[]byte. A *StatusError means that the server refused the request.
func (c *Client) Get(ctx context.Context, path string, v any) error {
	return c.do(ctx, http.MethodGet, path, nil, v)
}

// Post sends a change; body, if not nil, is sent as JSON.
func (c *Client) Post(ctx context.Context, path string, body, v any) error {
	return c.do(ctx, http.MethodPost, path, body, v)
}

func (c *Client) do(ctx context.Context, method, path string, body, v any) error {
	var in io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("admin: %w", err)
		}
		in = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, in)
	if err != nil {
		return fmt.Errorf("admin: %w", err)
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	res, err := c.http.Do(req)
	if err != nil {
		var u *url.Error // its text repeats the URL, query and all
		if errors.As(err, &u) {
			err = u.Err
		}
		return fmt.Errorf("admin: %w", err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("admin: %w", err)
	}
	if res.StatusCode != http.StatusOK {
		return statusError(res.StatusCode, b)
	}
	switch v := v.(type) {
	case nil:
		return nil
	case *[]byte:
		*v = b
		return nil
	default:
		if err := json.Unmarshal(b, v); err != nil {
			return fmt.Errorf("admin: the answer of %s: %w", path, err)
		}
		return nil
	}
}

// statusError decodes a refusal.
func statusError(status int, b []byte) error {
	var said struct {
		Error   string   `json:"error"`
		Reasons []string `json:"reasons"`
	}
	_ = json.Unmarshal(b, &said) // empty if it is not an admin server
	text := said.Error
	if text == "" {
		text = strings.Join(said.Reasons, "; ")
	}
	if text == "" {
		text = http.StatusText(status)
	}
	return &StatusError{status, text}
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }
