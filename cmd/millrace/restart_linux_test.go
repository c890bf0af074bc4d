package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"millrace/services/client"
)

// Two addresses take turns: the next server starts at the other one, the last drains and says
// where to go. Over three restarts no call of a client fails, and none is run twice.
func TestClientsFollowTheServerOverRestarts(t *testing.T) {
	var addrs [2]string
	for i := range addrs {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addrs[i] = ln.Addr().String()
		ln.Close()
	}
	start := func(i int) *process {
		return serve(t, "--addr=tcp://"+addrs[i%2], "--drain-to="+addrs[(i+1)%2], "--drain-timeout=20s")
	}
	now := start(0)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	const clients = 16
	var calls [clients]atomic.Uint64
	var connects atomic.Uint64
	var all sync.WaitGroup
	served := func(n uint64) { // all of them, n times more
		t.Helper()
		var from [clients]uint64
		for i := range calls {
			from[i] = calls[i].Load()
		}
		for i, end := 0, time.Now().Add(patience); i < clients; {
			switch {
			case calls[i].Load() >= from[i]+n:
				i++
			case time.Now().After(end):
				t.Fatalf("client %d is not served", i)
			default:
				time.Sleep(time.Millisecond)
			}
		}
	}
	for i := range clients {
		c, err := client.Dial(ctx, client.Config{Addrs: addrs[:]})
		if err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			defer c.Close()
			for n := 0; ctx.Err() == nil; n++ {
				text := fmt.Sprintf("%d of %d", n, i)
				got, err := c.Do(ctx, client.Handle(1, 1), []byte(text))
				if err != nil && !errors.Is(err, context.Canceled) || err == nil && string(got) != text {
					t.Errorf("call %s: %q %v", text, got, err)
				}
				calls[i].Add(1)
			}
			n, _ := c.Stats()
			connects.Add(n)
		})
	}
	served(10)
	for round := range 3 {
		next := start(round + 1)
		now.signal(syscall.SIGTERM)
		if code := now.wait(); code != exitOK {
			t.Errorf("restart %d: exit code %d, want 0", round, code)
		}
		now = next
		served(10)
	}
	cancel()
	all.Wait()
	if n := connects.Load(); n < 4*clients {
		t.Errorf("%d connections of %d clients, want one for each server", n, clients)
	}
	n := uint64(0)
	for i := range calls {
		n += calls[i].Load()
	}
	t.Logf("%d calls over three restarts by %d connections", n, connects.Load())
}
