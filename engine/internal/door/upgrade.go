package door

import (
	"bufio"
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
)

// maxHead is how long the header of an upgrade request may be, in bytes.
const maxHead = 8 << 10

// Subprotocol is chosen when a WebSocket client offers it.
const Subprotocol = "millrace"

// StatusError is an error of an upgrade hook that says which HTTP status the client gets.
type StatusError interface {
	error
	Status() int
}

// headEnd is where the header at the start of b ends; 0: it goes on.
func headEnd(b []byte) int {
	for i := 0; ; {
		n := bytes.IndexByte(b[i:], '\n')
		if n < 0 {
			return 0
		}
		i += n + 1
		if line := b[:i]; bytes.HasSuffix(line, []byte("\n\r\n")) || bytes.HasSuffix(line, []byte("\n\n")) {
			return i
		}
	}
}

// refusal is how an upgrade is refused.
type refusal struct {
	status int
	text   string
}

// answer is the response; to a HEAD it has no body, though it says how long that would be.
func (r *refusal) answer(head bool) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "HTTP/1.1 %d %s\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\n", r.status, http.StatusText(r.status), len(r.text)+1)
	if r.status == http.StatusUpgradeRequired {
		b.WriteString("Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n")
	}
	b.WriteString("\r\n")
	if !head {
		fmt.Fprintf(&b, "%s\n", r.text)
	}
	return b.Bytes()
}

var errHead = &refusal{http.StatusRequestHeaderFieldsTooLarge, "the request's header is over 8 KiB"}

var errDraining = &refusal{http.StatusServiceUnavailable, "the server is going away"}

// headReader reads the header of a request.
type headReader struct {
	from bytes.Reader
	buf  *bufio.Reader
}

var headReaders = sync.Pool{New: func() any { return &headReader{buf: bufio.NewReaderSize(nil, 1<<10)} }}

// readRequest reads the header of a request, which has no body.
func readRequest(head []byte) (*http.Request, *refusal) {
	rd := headReaders.Get().(*headReader)
	defer headReaders.Put(rd)
	rd.from.Reset(head)
	rd.buf.Reset(&rd.from)
	r, err := http.ReadRequest(rd.buf)
	if err == nil {
		r.Body = http.NoBody // it would read from what others have next
	}
	if err != nil || r.Host == "" && r.ProtoAtLeast(1, 1) {
		return nil, &refusal{http.StatusBadRequest, "not an HTTP request"}
	}
	return r, nil
}

// checkUpgrade says what is wrong with a request, the first of its faults; nil: nothing.
func checkUpgrade(r *http.Request, path string, origins []string, secure bool) *refusal {
	asks := r.ProtoAtLeast(1, 1) && hasToken(r.Header, "Connection", "upgrade") && hasToken(r.Header, "Upgrade", "websocket")
	keys, versions := r.Header["Sec-Websocket-Key"], r.Header["Sec-Websocket-Version"] // each once: RFC 6455, sections 11.3.1 and 11.3.5
	switch {
	case asks && (len(keys) != 1 || !validKey(keys[0])):
		return &refusal{http.StatusBadRequest, "Sec-WebSocket-Key must be 16 bytes in base64"}
	case asks && r.ContentLength != 0: // whose bytes would be taken for frames
		return &refusal{http.StatusBadRequest, "a request for a WebSocket has no body"}
	case !asks || r.Method != http.MethodGet:
		return &refusal{http.StatusUpgradeRequired, "this address speaks WebSocket"}
	case len(versions) != 1 || versions[0] != "13":
		return &refusal{http.StatusUpgradeRequired, "the WebSocket version must be 13"}
	case r.URL.Path != path:
		return &refusal{http.StatusNotFound, "no such path"}
	case !originAllowed(r, origins, secure):
		return &refusal{http.StatusForbidden, "this origin is not allowed"}
	}
	return nil
}

func validKey(s string) bool {
	var b [18]byte
	if len(s) != 24 {
		return false
	}
	n, err := base64.StdEncoding.Decode(b[:], []byte(s))
	return err == nil && n == 16
}

// hasToken tells whether a header that is a list has an item, whatever its case.
func hasToken(h http.Header, name, token string) bool {
	for _, v := range h.Values(name) {
		for item := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(item), token) {
				return true
			}
		}
	}
	return false
}

// originAllowed tells whether the page that a browser was sent here by is the server's own,
// or one of those allowed. Without an Origin it was no browser.
func originAllowed(r *http.Request, allowed []string, secure bool) bool {
	origins := r.Header["Origin"]
	if len(origins) == 0 {
		return true
	}
	if len(origins) > 1 {
		return false
	}
	for _, a := range allowed {
		if a == "*" || sameOrigin(a, origins[0]) {
			return true
		}
	}
	u, err := url.Parse(origins[0])
	if err != nil || u.Host == "" {
		return false
	}
	own := "http"
	if secure {
		own = "https"
	}
	return hostPort(u.Host, u.Scheme) == hostPort(r.Host, own)
}

// sameOrigin compares two origins, or an allowed host without a scheme and an origin.
func sameOrigin(allowed, origin string) bool {
	o, err := url.Parse(origin)
	if err != nil {
		return false
	}
	if !strings.Contains(allowed, "://") {
		return hostPort(allowed, o.Scheme) == hostPort(o.Host, o.Scheme)
	}
	a, err := url.Parse(allowed)
	return err == nil && strings.EqualFold(a.Scheme, o.Scheme) && hostPort(a.Host, a.Scheme) == hostPort(o.Host, o.Scheme)
}

// hostPort is a host in lower case with its port, the scheme's default where it names none.
func hostPort(host, scheme string) string {
	host = strings.ToLower(host)
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	port := "80"
	switch strings.ToLower(scheme) {
	case "https", "wss":
		port = "443"
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), port)
}

// CheckOrigin tells what is wrong with an entry of the allowed origins.
func CheckOrigin(s string) error {
	whole := s
	if !strings.Contains(s, "://") {
		whole = "https://" + s
	}
	u, err := url.Parse(whole)
	switch {
	case s == "*":
		return nil
	case strings.Contains(s, "*"):
		return errors.New("the only pattern is * for all hosts: give each host")
	case err != nil || u.Hostname() == "" || u.User != nil || u.Path != "" && u.Path != "/" || strings.ContainsAny(s, " ?#") || whole != s && u.Path != "" || s == "null":
		return errors.New("must be an origin such as https://example.com, a host, or * for all")
	}
	if p := u.Port(); p != "" {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return errors.New("the port must be 1 to 65535")
		}
	}
	return nil
}

// accepted appends the answer that ends the HTTP of an upgrade; protocol: the client offers
// Subprotocol.
func accepted(b, key []byte, protocol bool, terms deflateTerms) []byte {
	var text [24 + 36]byte
	sum := sha1.Sum(append(append(text[:0], key...), "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"...))
	b = append(b, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "...)
	b = base64.StdEncoding.AppendEncode(b, sum[:])
	if protocol {
		b = append(b, "\r\nSec-WebSocket-Protocol: "+Subprotocol...)
	}
	if terms.on {
		b = append(b, "\r\nSec-WebSocket-Extensions: "+terms.header()...)
	}
	return append(b, "\r\n\r\n"...)
}

// forwardedFor is the address that trusted proxies say a request comes from: the last in
// X-Forwarded-For that is not a trusted proxy's own. Not valid: they say none.
func forwardedFor(r *http.Request, trusted Sources) (ip netip.Addr) {
	var hops []string
	for _, v := range r.Header.Values("X-Forwarded-For") {
		hops = append(hops, strings.Split(v, ",")...)
	}
	for i := len(hops) - 1; i >= 0; i-- {
		at, err := netip.ParseAddr(strings.Trim(strings.TrimSpace(hops[i]), "[]"))
		if err != nil {
			return ip
		}
		if ip = at.Unmap().WithZone(""); !trusted.HasIP(ip) {
			return ip
		}
	}
	return ip
}
