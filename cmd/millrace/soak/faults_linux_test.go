package soak

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"millrace/dbasync/pgembed"
	"millrace/internal/faultproxy"
	"millrace/services/admin"
)

// crowd are the addresses of clients that a kick may hit.
type crowd struct {
	mu    sync.Mutex
	addrs map[string]bool // guarded by mu
}

// add puts an address in; leave takes it out.
func (c *crowd) add(a net.Addr) (leave func()) {
	if _, _, err := net.SplitHostPort(a.String()); err != nil {
		return func() {} // a WebSocket's is none
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.addrs[a.String()] = true
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.addrs, a.String())
	}
}

func (c *crowd) any() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for a := range c.addrs {
		return a
	}
	return ""
}

// fault is one that the server, its clients or its database are put through.
type fault struct {
	name string
	do   func(s *soak, v *server, r *mathrand.Rand) error
}

var faults = []fault{
	{"kick", (*soak).kick},
	{"new certificate", (*soak).renew},
	{"settings changed", (*soak).set},
	{"drain taken back", (*soak).drainAndBack},
	{"clients cut off", (*soak).cutClients},
	{"clients stalled", (*soak).stallClients},
	{"crowd of resets", (*soak).resets},
	{"database cut off", func(s *soak, _ *server, r *mathrand.Rand) error {
		s.dbProxy.Cut()
		pause(time.Duration(r.IntN(500)) * time.Millisecond)
		s.dbProxy.Heal()
		return nil
	}},
	{"database stalled", func(s *soak, _ *server, r *mathrand.Rand) error {
		s.dbProxy.Stall([]faultproxy.Direction{faultproxy.Up, faultproxy.Down, faultproxy.Both}[r.IntN(3)])
		pause(time.Duration(r.IntN(1000)) * time.Millisecond)
		s.dbProxy.Heal()
		return nil
	}},
	{"database restarted", func(s *soak, _ *server, _ *mathrand.Rand) error { return s.restartDB(pgembed.Fast) }},
	{"database crashed", func(s *soak, _ *server, _ *mathrand.Rand) error { return s.restartDB(pgembed.Immediate) }},
}

// pause is the fault's own time.
func pause(d time.Duration) { <-time.After(d) }

func (s *soak) restartDB(how pgembed.Mode) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return s.db.Restart(ctx, how)
}

// strike puts the server through one fault after the other until the time is over, all in an
// order of its own each round.
func (s *soak) strike(v *server, until time.Time, r *mathrand.Rand) {
	gap := min(max(s.length/200, 50*time.Millisecond), 5*time.Second)
	for time.Now().Before(until) && v.running() {
		for _, i := range r.Perm(len(faults)) {
			if !time.Now().Before(until) || !v.running() {
				return
			}
			f := faults[i]
			if err := f.do(s, v, r); err != nil {
				s.violation("%s: %v", f.name, err)
			}
			s.mu.Lock()
			s.struck[f.name]++
			s.mu.Unlock()
			pause(min(gap, time.Until(until)))
		}
	}
}

// kick throws out a client that asks, if there is one.
func (s *soak) kick(v *server, _ *mathrand.Rand) error {
	addr := s.crowd.any()
	var list admin.Sessions
	if err := v.get("/sessions?limit=1000&q="+url.QueryEscape(addr), &list); err != nil || addr == "" {
		return err
	}
	i := slices.IndexFunc(list.Sessions, func(x admin.Session) bool { return x.Addr == addr })
	if i < 0 {
		return nil
	}
	err := v.post(fmt.Sprintf("/sessions/%d.%d/kick", list.Sessions[i].Index, list.Sessions[i].Round), nil)
	if no := (*admin.StatusError)(nil); errors.As(err, &no) && no.Status == 404 {
		return nil // it has gone meanwhile
	}
	return err
}

// renew gives the server another certificate and waits until clients see it.
func (s *soak) renew(v *server, _ *mathrand.Rand) error {
	serial, err := s.writeCertificate()
	if err != nil {
		return err
	}
	if err := v.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		return err
	}
	for end := time.Now().Add(patience); ; pause(20 * time.Millisecond) {
		conn, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", s.at.host, anyCert)
		if err == nil {
			seen := conn.ConnectionState().PeerCertificates[0].SerialNumber
			_ = conn.Close()
			if seen.Cmp(serial) == 0 {
				return nil
			}
			err = fmt.Errorf("it shows certificate %v, not %v", seen, serial)
		}
		if time.Now().After(end) {
			return err
		}
	}
}

// writeCertificate writes a new pair for localhost, each file at once.
func (s *soak) writeCertificate() (*big.Int, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial := big.NewInt(time.Now().UnixNano())
	t := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(48 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	for _, f := range []struct {
		name, kind string
		der        []byte
	}{{s.at.key, "PRIVATE KEY", private}, {s.at.cert, "CERTIFICATE", der}} {
		if err := os.WriteFile(f.name+".new", pem.EncodeToMemory(&pem.Block{Type: f.kind, Bytes: f.der}), 0o600); err != nil {
			return nil, err
		}
		if err := os.Rename(f.name+".new", f.name); err != nil {
			return nil, err
		}
	}
	return serial, nil
}

// set changes a setting that those who are there are judged by.
func (s *soak) set(v *server, r *mathrand.Rand) error {
	all := []map[string]string{
		{"log-level": "warn"}, {"log-level": "info"},
		{"memory-budget": fmt.Sprint(budget / 2)}, {"memory-budget": fmt.Sprint(budget)},
		{"handle-dispatch": "1/1=inline"}, {"handle-dispatch": "1/1=ordered"}, {"handle-dispatch": "1/1=adaptive"},
		{"idle-timeout": "1m"}, {"heartbeat": "3s"}, {"frame-timeout": "8s", "max-conns": "1500"},
	}
	return v.post("/config", all[r.IntN(len(all))])
}

// drainAndBack tells all sessions to go, and lets clients in again.
func (s *soak) drainAndBack(v *server, r *mathrand.Rand) error {
	if err := v.post("/drain?rate=500", nil); err != nil {
		return err
	}
	pause(time.Duration(r.IntN(400)) * time.Millisecond)
	return v.post("/undrain", nil)
}

// cutClients breaks the connections of some pairs.
func (s *soak) cutClients(_ *server, r *mathrand.Rand) error {
	for range 1 + r.IntN(5) {
		p := s.proxies[r.IntN(len(s.proxies))]
		p.Cut()
		pause(time.Duration(r.IntN(100)) * time.Millisecond)
		p.Heal()
	}
	return nil
}

// stallClients lets nothing through to a pair, or from it, and then cuts it off or not.
func (s *soak) stallClients(_ *server, r *mathrand.Rand) error {
	p := s.proxies[r.IntN(len(s.proxies))]
	p.Stall([]faultproxy.Direction{faultproxy.Up, faultproxy.Down, faultproxy.Both}[r.IntN(3)])
	pause(time.Duration(r.IntN(1000)) * time.Millisecond)
	if r.IntN(2) == 0 {
		p.Cut()
	}
	p.Heal()
	return nil
}

// resets opens many connections at once and resets them, most in the middle of something.
func (s *soak) resets(_ *server, r *mathrand.Rand) error {
	const n = 200
	var all []*net.TCPConn
	for range n {
		c, err := net.DialTimeout("tcp", s.at.host, patience)
		if err != nil {
			return err
		}
		all = append(all, c.(*net.TCPConn))
	}
	text := "\x00\x00\x04\x04\x00\x01\x00\x01" + strings.Repeat("r", 1024)
	for _, c := range all {
		_, _ = c.Write([]byte(strings.Repeat(text, 8)[:r.IntN(8*len(text))]))
		_ = c.SetLinger(0)
	}
	slices.Reverse(all)
	for _, c := range all {
		_ = c.Close()
	}
	return nil
}
