//go:build unix

package cluster_test

import (
	"syscall"
	"testing"
	"time"

	"millrace/internal/proctest"
	"millrace/services"
)

func TestASuspendedHolderFindsOut(t *testing.T) {
	srv := embedded(t)
	c := open(t, srv.URL(), lease)
	p := startProcess(t, srv.URL(), lease)
	token := p.lock("l", time.Hour, 0)
	if token == 0 {
		t.Fatal("the child did not get the lock")
	}
	proctest.Suspend(t, p.cmd.Process)
	next, err := services.LockAndWait(background, c, "l", services.LockOptions{TTL: time.Hour, Wait: time.Minute})
	if err != nil || next <= token {
		t.Fatalf("got token %d after %d, %v", next, token, err)
	}
	if err := p.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if got := p.do("unlock l %d", token); got != "false <nil>" {
		t.Errorf("the suspended holder's unlock: got %q, want false", got)
	}
	if got := p.lock("l", time.Second, 0); got != 0 {
		t.Errorf("it got token %d beside %d", got, next)
	}
	if ok, err := c.Unlock(background, "l", next); !ok || err != nil {
		t.Errorf("unlock: %v, %v", ok, err)
	}
}
