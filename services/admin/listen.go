package admin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// address is a listen address: a host and port, or the path of a unix socket.
type address struct {
	host, port string
	path       string
	loopback   bool // not reachable from other machines
}

func (a address) String() string {
	if a.path != "" {
		return "unix://" + a.path
	}
	return net.JoinHostPort(a.host, a.port)
}

// parseAddr parses HOST:PORT or unix:///PATH. Without a token only loopback addresses are allowed.
func parseAddr(s string, token bool) (address, error) {
	bad := func(why string) (address, error) { return address{}, fmt.Errorf("admin: Addr = %q: %s", s, why) }
	if rest, ok := strings.CutPrefix(s, "unix://"); ok {
		if !strings.HasPrefix(rest, "/") || strings.HasSuffix(rest, "/") {
			return bad("must be unix:///PATH, the path of a socket")
		}
		return address{path: rest, loopback: true}, nil
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return bad("must be HOST:PORT, or unix:///PATH")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(n, 10) != port {
		return bad("the port must be a number, 0 to 65535")
	}
	a := address{host: host, port: port}
	if a.loopback, err = isLoopback(host); err != nil {
		return bad(err.Error())
	}
	if !a.loopback && !token {
		return bad("other machines can reach it: use a loopback address such as 127.0.0.1, a unix socket, or give a token")
	}
	return a, nil
}

// isLoopback reports whether every address of a host is a loopback address.
func isLoopback(host string) (bool, error) {
	if strings.EqualFold(host, "localhost") {
		return true, nil
	}
	if host == "" {
		return false, nil
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.Unmap().IsLoopback(), nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return false, err
	}
	for _, ip := range ips {
		if !ip.Unmap().IsLoopback() {
			return false, nil
		}
	}
	return len(ips) > 0, nil
}

func (a address) listen(ctx context.Context) (net.Listener, error) {
	if a.path != "" {
		return listenUnix(ctx, a.path)
	}
	var lc net.ListenConfig
	return lc.Listen(ctx, "tcp", net.JoinHostPort(a.host, a.port))
}

// listenUnix creates the socket with permissions for its owner only, from the first moment. A stale
// socket is replaced; anything else at the path is left alone.
func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	switch info, err := os.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case info.Mode().Type() != fs.ModeSocket:
		return nil, fmt.Errorf("%w: a file that is not a socket exists there: use another path", fs.ErrExist)
	default:
		d := net.Dialer{Timeout: time.Second}
		c, err := d.DialContext(ctx, "unix", path)
		if err == nil {
			c.Close()
			return nil, syscall.EADDRINUSE
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return nil, fmt.Errorf("%w (%w)", syscall.EADDRINUSE, err)
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	lc := net.ListenConfig{Control: ownerOnly}
	ln, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil { // if Control could not
		ln.Close()
		return nil, err
	}
	return ln, nil
}
