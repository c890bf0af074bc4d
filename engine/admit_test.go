package engine

import (
	"errors"
	"net"
	"strings"
	"testing"
)

// A client that Admit refuses is told so, gets no session, does not count towards limits, and is counted
// as refused.
func TestAdmitRefuses(t *testing.T) {
	for _, c := range []struct {
		name, text string
		admit      func(net.Addr) error
	}{
		{"error", "not from here", func(net.Addr) error { return errors.New("not from here") }},
		{"panic", "not admitted", func(net.Addr) error { panic("on purpose") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := &funcs{read: echo, accept: func(*Session) { t.Error("OnSocketAccept was called") }}
			srv := serve(t, Config{Admit: c.admit, Limits: Limits{MaxConnsPerIP: 2}}, h)
			for range 5 { // more than one address may have
				p, err := dial(t, srv).read()
				if err != nil || p.Main != SystemMain || p.Sub != SubError || p.Body[1] != byte(CodeUnauthorised) || !strings.HasSuffix(string(p.Body), c.text) {
					t.Fatalf("got %d/%d %q, %v", p.Main, p.Sub, p.Body, err)
				}
			}
			if st := srv.Stats(); st.Refused[RefusedAdmit] != 5 || st.Conns != 0 {
				t.Errorf("%d refused, %d sessions", st.Refused[RefusedAdmit], st.Conns)
			}
		})
	}
}

func TestAdmitIsToldTheAddress(t *testing.T) {
	seen := make(chan net.Addr, 1)
	srv := serve(t, Config{Admit: func(a net.Addr) error { seen <- a; return nil }}, &funcs{read: echo})
	c := dial(t, srv)
	c.send(1, 1, "x")
	c.expect(1, 1, "x")
	if got := <-seen; got.String() != c.LocalAddr().String() {
		t.Errorf("got %v, want %v", got, c.LocalAddr())
	}
}
