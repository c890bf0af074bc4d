package door

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"testing"
	"testing/synctest"
	"time"

	"millrace/engine/internal/budget"
)

// shakers is a loop of a Host that waits for TLS handshakes, and what makes connections of it.
func shakers(t *testing.T, most int) (h *Host, come func() *conn) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	self := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, self, self, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	h = &Host{cfg: Config{MaxHandshakes: most, HandshakeTimeout: time.Hour, Budget: budget.New(1<<20, nil),
		TLS: &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}}}
	h.shakes = newHandshakes(h)
	l := &loop{Loop: deaf{}, h: h}
	return h, func() *conn {
		c := &conn{Conn: &comer{}, l: l, phase: handshake}
		c.tls = &tlsLayer{c: c, shake: &shake{}}
		c.tls.shake.more.L = &c.tls.shake.mu
		h.shakes.enter(c)
		return c
	}
}

// Of too many handshakes those are shed first whose clients have let it wait longest, whether they say nothing or send byte
// by byte, in front of the answer or behind it.
func TestWhoSendsByteByByteKeepsNoPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, come := shakers(t, 1)
		hello := helloOf(&tls.Config{})
		before, behind := come(), come()
		behind.tls.received(hello)
		synctest.Wait()
		const step = shedAfter / 5
		shed := func() int { return int(h.st.shed.Load()) }
		for i := range 4 {
			time.Sleep(step)
			before.tls.received(hello[i : i+1])
			behind.tls.received([]byte{20, 3, 3, 0, 1}[i : i+1])
			synctest.Wait()
		}
		if n := shed(); n != 0 {
			t.Fatalf("%d are shed before their time", n)
		}
		time.Sleep(step / 2)
		late := []*conn{come(), come()} // honest ones, whose clients are far away
		time.Sleep(step)
		if n := shed(); n != 2 || late[0].tls.shake.wait == nil || late[1].tls.shake.wait == nil {
			t.Errorf("%d are shed, want the two that send byte by byte", n)
		}
		for _, c := range append(late, before, behind) {
			c.tls.release()
		}
		h.shakes.stop()
	})
}

// A handshake that has ended waits for nobody, however it has ended: by its client's FIN behind the answer, or when its
// connection is closed.
func TestHandshakesThatHaveEndedWaitForNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, come := shakers(t, 8)
		for _, fin := range []bool{true, false} {
			c := come()
			c.tls.received(helloOf(&tls.Config{}))
			synctest.Wait()
			if n := h.shakes.waiters.Len(); n != 1 {
				t.Fatalf("%d wait for their clients, want 1", n)
			}
			if fin {
				c.tls.noMore()
			} else {
				c.tls.release()
			}
			synctest.Wait()
			if n := h.shakes.waiters.Len(); n != 0 {
				t.Errorf("%d wait behind the end (a FIN: %v), want none", n, fin)
				h.shakes.waiters.Init()
			}
		}
		h.shakes.stop()
	})
}
