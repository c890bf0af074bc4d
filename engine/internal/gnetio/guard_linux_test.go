package gnetio

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// Of those that claim a port at the same moment exactly one has it, although the kernel
// may refuse two that begin to listen together.
func TestOneGuardPerPort(t *testing.T) {
	before := openFiles(t)
	for round := range 300 {
		at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(freePort(t)))
		var wg sync.WaitGroup
		var have atomic.Int32
		cs := make([]*claim, 4)
		start := make(chan bool)
		for i := range cs {
			c := &claim{addr: Addr{"tcp", fmt.Sprint(at)}, at: at, guard: -1}
			cs[i] = c
			wg.Go(func() {
				<-start
				if err := c.hold(t.Context()); err == nil {
					have.Add(1)
				} else if !errors.Is(err, syscall.EADDRINUSE) {
					t.Error(err)
				}
			})
		}
		close(start)
		wg.Wait()
		for _, c := range cs {
			c.letGo()
		}
		if n := have.Load(); n != 1 {
			t.Fatalf("round %d: %d have the port, want 1", round, n)
		}
	}
	if n := openFiles(t); n > before {
		t.Errorf("%d descriptors were left open", n-before)
	}
}
