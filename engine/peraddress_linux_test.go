package engine

import (
	"fmt"
	"testing"
	"time"

	"millrace/codec"
)

// comes dials as from that address, by a PROXY header, and tells whether a request is
// answered; else the server has refused with ERROR 12.
func comes(t *testing.T, srv *Server, from string) bool {
	t.Helper()
	kind, to := "TCP4", "127.0.0.1"
	for _, c := range from {
		if c == ':' {
			kind, to = "TCP6", "::1"
		}
	}
	c := &client{Conn: dialDoor(t, srv.URLs()[0], "tcp", fmt.Sprintf("PROXY %s %s %s 5000 7000\r\n", kind, from, to)), t: t}
	c.r = codec.NewReader(c, nil)
	c.SetDeadline(time.Now().Add(time.Minute))
	c.Write(frame(1, 1, "hello"))
	p, err := c.r.Next()
	switch {
	case err != nil:
		t.Fatalf("%s: %v", from, err)
	case p.Main == 1 && string(p.Body) == "hello":
		return true
	case p.Main != SystemMain || p.Sub != SubError || ErrorCode(p.Body[1]) != CodeLimit:
		t.Fatalf("%s: got %v, want the echo or ERROR 12", from, p)
	}
	return false
}

// Who has a network of IPv6 addresses is limited as one, however many of them he uses; the
// next network is another, and an IPv4 address counts whole, also in IPv6's clothes.
func TestAnIPv6NetworkIsOneAddress(t *testing.T) {
	mapped := "::ffff:203.0.113.9"
	for _, x := range []struct {
		prefix int
		from   []string
		want   []bool // with two for each address
	}{
		{0, []string{"2001:db8::1", "2001:db8::ffff:1", "2001:db8::2", "2001:db8:0:0:8000::", "2001:db8:0:1::1"}, []bool{true, true, false, false, true}},
		{128, []string{"2001:db8::1", "2001:db8::2", "2001:db8::1", "2001:db8::1", "2001:db8::3"}, []bool{true, true, true, false, true}},
		{48, []string{"2001:db8::1", "2001:db8:0:1::1", "2001:db8:0:ffff::1", "2001:db8:1::1"}, []bool{true, true, false, true}},
		{1, []string{"203.0.113.9", mapped, mapped, "203.0.113.8", "203.0.113.9", "2001:db8::1"}, []bool{true, true, false, true, false, true}},
	} {
		for _, limit := range []string{"conns", "rate"} {
			t.Run(fmt.Sprint(x.prefix, " ", limit), func(t *testing.T) {
				t.Parallel()
				cfg := Config{Doors: Doors{ProxyFrom: []string{"127.0.0.0/8"}}, Limits: Limits{IPv6Prefix: x.prefix}}
				why := RefusedPerIP
				if limit == "conns" {
					cfg.MaxConnsPerIP = 2
				} else {
					cfg.AcceptRatePerIP, why = 2, RefusedRatePerIP
				}
				srv := serve(t, cfg, &funcs{read: echo})
				began, refused := time.Now(), uint64(0)
				var got []bool
				for _, from := range x.from {
					got = append(got, comes(t, srv, from))
				}
				if limit == "rate" && time.Since(began) > 400*time.Millisecond {
					t.Skip("the machine is too slow to tell a rate: a second's worth was used up and came back")
				}
				for i, ok := range got {
					if ok != x.want[i] {
						t.Errorf("%s, the %dth of %v: let in %v, want %v", x.from[i], i+1, x.from, ok, x.want[i])
					}
					if !x.want[i] {
						refused++
					}
				}
				if n := srv.Stats().Refused[why]; n != refused {
					t.Errorf("%d refused as %v, want %d", n, why, refused)
				}
				if limit == "conns" && x.prefix == 0 {
					n := nearOf(t, srv, LimitConnsPerIP)
					if n.Used != 2 || n.Most != 2 {
						t.Errorf("near miss %+v", n)
					}
				}
			})
		}
	}
}

// A place that was given up is the network's again, by whichever of its addresses.
func TestAnIPv6NetworkGetsItsPlacesBack(t *testing.T) {
	cfg := Config{Doors: Doors{ProxyFrom: []string{"127.0.0.0/8"}}, Limits: Limits{MaxConnsPerIP: 1}}
	srv := serve(t, cfg, &funcs{read: echo})
	for i := range 20 {
		from := fmt.Sprintf("2001:db8::%d", i+1)
		c := dialDoor(t, srv.URLs()[0], "tcp", "PROXY TCP6 "+from+" ::1 5000 7000\r\n")
		c.SetDeadline(time.Now().Add(time.Minute))
		hello := frame(1, 1, "hello")
		c.Write(hello)
		expect(t, c, hello)
		c.Close()
		waitFor(t, "it to go", func() bool { return srv.Stats().Conns == 0 && srv.perIP.Len() == 0 })
	}
}
