package cluster_test

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"millrace/internal/faultproxy"
	"millrace/services"
	"millrace/services/cluster"
)

// heard returns a function that waits until the servers get a message whose subject begins with
// prefix, of those sent after the last wait for it.
func heard(t *testing.T, srv *cluster.Embedded) func(prefix string) {
	t.Helper()
	nc, err := nats.Connect(srv.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	subjects := make(chan string, 1024)
	for _, pattern := range []string{"$KV.>", "$JS.API.>"} { // not what watches are sent
		if _, err := nc.Subscribe(pattern, func(m *nats.Msg) {
			select {
			case subjects <- m.Subject:
			default:
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return func(prefix string) {
		t.Helper()
		for end := time.After(within); ; {
			select {
			case s := <-subjects:
				if strings.HasPrefix(s, prefix) {
					return
				}
			case <-end:
				t.Fatalf("no message to %s", prefix)
			}
		}
	}
}

func patient(cfg *cluster.Config) { cfg.Timeout = 5 * time.Minute }

// A caller that waits for an answer gets an error when the connection is lost, not only at its deadline.
func TestAnExchangeEndsWithItsConnection(t *testing.T) {
	srv := embedded(t)
	p, url := proxied(t, srv)
	c := open(t, url, steady, patient)
	token := mustLock(t, c, "l", services.LockOptions{TTL: time.Hour})
	for _, x := range []struct {
		name, subject string
		call          func() error
	}{
		{"set", "$KV.millrace.k", func() error { _, err := c.Set(background, "k", nil, 0); return err }},
		{"get", "$JS.API.STREAM.MSG.GET.KV_millrace", func() error { _, err := c.Get(background, "k"); return err }},
		{"unlock", "$KV.millrace_locks.k", func() error { _, err := c.Unlock(background, "l", token); return err }},
	} {
		t.Run(x.name, func(t *testing.T) {
			eventually(t, "it is back", func() bool { _, err := c.Set(background, "other", nil, 0); return err == nil })
			wait := heard(t, srv)
			p.Stall(faultproxy.Down)
			defer p.Heal()
			ended := make(chan error, 1)
			go func() { ended <- x.call() }()
			wait(x.subject)
			p.Cut()
			select {
			case err := <-ended:
				if !errors.Is(err, services.ErrCacheUnknown) {
					t.Errorf("got %v, want ErrCacheUnknown", err)
				}
			case <-time.After(within):
				t.Errorf("it still waits %v after the cut", within)
			}
		})
	}
	// The lock whose unlock was cut is free all the same.
	mustLock(t, open(t, srv.URL(), steady), "l", services.LockOptions{TTL: time.Hour, Wait: within})
}

// A connection that breaks during a renewal and is back at once loses no lock.
func TestACutRenewalIsMadeAgain(t *testing.T) {
	srv := embedded(t)
	p, url := proxied(t, srv)
	c := open(t, url, 6*time.Second, patient)
	var lost atomic.Bool
	token := mustLock(t, c, "l", services.LockOptions{TTL: time.Hour, OnLost: func() { lost.Store(true) }})
	wait := heard(t, srv)
	p.Stall(faultproxy.Down)
	wait("$KV.millrace_locks.p")
	p.Cut()
	p.Heal()
	wait("$KV.millrace_locks.p")
	if ok, err := c.Unlock(background, "l", token); !ok || err != nil || lost.Load() {
		t.Errorf("unlock: got %v, %v, lost %v", ok, err, lost.Load())
	}
}
