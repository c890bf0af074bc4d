package admin

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"millrace/services/admin/page"
)

// refusal is the reason why a request is not served.
type refusal struct {
	status int
	text   string
}

func (e *refusal) Error() string { return e.text }

// ServeHTTP serves a request, or refuses it: because of a missing token (401), a foreign Host or
// Origin (403), an unknown path (404), a wrong method (405), or because changes are not allowed
// (403), checked in this order.
func (d *Door) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	defer serving(req)()
	r := &request{d: d, w: &limitedWriter{ResponseWriter: w, timeout: d.cfg.Timeout}, Request: req}
	if err := d.admit(r); err != nil {
		var no *refusal
		if errors.As(err, &no) && no.status == http.StatusUnauthorized && r.URL.Path == "/" && r.Method == http.MethodGet {
			d.refused.Add(1)
			page.Serve(r.w, no.status) // the page asks its user for the token
			return
		}
		r.fail(err)
		return
	}
	if err := d.route(r); err != nil {
		r.fail(err)
	}
}

// admit checks who sends a request, before its path is looked at.
func (d *Door) admit(r *request) error {
	if d.cfg.Token != "" && !d.hasToken(r.Header.Values("Authorization")) {
		r.w.Header().Set("WWW-Authenticate", "Bearer")
		return &refusal{http.StatusUnauthorized, "the token is missing or wrong: Authorization: Bearer TOKEN"}
	}
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if r.Host == "" {
		return &refusal{http.StatusBadRequest, "no Host"}
	}
	if !d.addr.isHost(r.Host, local) {
		return &refusal{http.StatusForbidden, "the Host is not this server"}
	}
	origins := r.Header.Values("Origin")
	if len(origins) > 1 || len(origins) == 1 && !d.addr.isOrigin(origins[0], local) {
		return &refusal{http.StatusForbidden, "the Origin is not this server"}
	}
	// A foreign page that makes this machine's browser fetch something without an Origin.
	if r.Header.Get("Sec-Fetch-Site") == "cross-site" && r.Header.Get("Sec-Fetch-Mode") != "navigate" {
		return &refusal{http.StatusForbidden, "the request is from a foreign page"}
	}
	return nil
}

// hasToken compares in constant time.
func (d *Door) hasToken(headers []string) bool {
	if len(headers) != 1 {
		return false
	}
	scheme, token, _ := strings.Cut(headers[0], " ")
	sum := sha256.Sum256([]byte(strings.TrimSpace(token)))
	return strings.EqualFold(scheme, "Bearer") && subtle.ConstantTimeCompare(sum[:], d.token[:]) == 1
}

// isHost reports whether a request's Host is the configured address, localhost or a loopback
// address, with its port. local is the connection's local address.
func (a address) isHost(host string, local net.Addr) bool {
	name, port, err := net.SplitHostPort(host)
	if err != nil {
		name, port = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"), "80"
	}
	ip, notIP := netip.ParseAddr(name)
	near := strings.EqualFold(name, "localhost") || notIP == nil && ip.Unmap().IsLoopback()
	if a.path != "" {
		return near || name == "unix" // a unix socket has no port
	}
	tcp, ok := local.(*net.TCPAddr)
	if !ok || port != portText(tcp) {
		return false
	}
	if near || a.host != "" && strings.EqualFold(name, a.host) {
		return true
	}
	told, err := netip.ParseAddr(a.host)
	if notIP != nil || err != nil && a.host != "" {
		return false
	}
	if a.host != "" && !told.IsUnspecified() {
		return ip.Unmap() == told.Unmap()
	}
	return ip.Unmap() == tcp.AddrPort().Addr().Unmap() // listening on all addresses: the one connected to
}

func portText(a *net.TCPAddr) string { _, port, _ := net.SplitHostPort(a.String()); return port }

// isOrigin reports whether a page may send requests: only one served by this server.
func (a address) isOrigin(origin string, local net.Addr) bool {
	u, err := url.Parse(origin)
	return err == nil && u.Scheme == "http" && u.User == nil && u.Path == "" && u.RawQuery == "" && u.Fragment == "" && u.Host != "" && a.isHost(u.Host, local)
}

// mayChange reports whether a request may change something, or get what other users must not see.
func (d *Door) mayChange(r *request) error {
	if !d.cfg.Write {
		return &refusal{http.StatusForbidden, "changes are not allowed: start with --admin-write"}
	}
	return d.ownUser(r)
}

// ownUser refuses other users of this machine if nothing else identifies the operator: over TCP
// without a token.
func (d *Door) ownUser(r *request) error {
	if d.addr.path != "" || d.cfg.Token != "" {
		return nil
	}
	local, _ := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err == nil && local != nil {
		err = ownPeer(peer, local.AddrPort())
	}
	if err != nil {
		return &refusal{http.StatusForbidden, err.Error() + ": use a unix socket, or a token"}
	}
	return nil
}

// limitedWriter limits the time in which the client must read the answer, from its first byte on.
type limitedWriter struct {
	http.ResponseWriter
	timeout time.Duration
	begun   bool
}

func (w *limitedWriter) begin() {
	if !w.begun {
		w.begun = true
		_ = http.NewResponseController(w.ResponseWriter).SetWriteDeadline(time.Now().Add(w.timeout))
	}
}

func (w *limitedWriter) WriteHeader(status int) {
	w.begin()
	w.ResponseWriter.WriteHeader(status)
}

func (w *limitedWriter) Write(b []byte) (int, error) {
	w.begin()
	return w.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (w *limitedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
