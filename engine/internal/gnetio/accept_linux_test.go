package gnetio

import (
	"errors"
	"net"
	"os"
	"sync"
	"testing"
	"time"
)

// Connections that pour in while a network stops are refused, or see their end: none is accepted
// and then forgotten, whoever accepts.
func TestStopClosesWhatWasAccepted(t *testing.T) {
	dir := t.TempDir()
	for name, cfg := range map[string]Config{
		"each loop":            {},
		"one for all":          {Single: true},
		"unix":                 {Addrs: []string{"unix://" + dir + "/s"}},
		"one for each address": {Single: true, Addrs: []string{"tcp://127.0.0.1:0", "unix://" + dir + "/a", "unix://" + dir + "/b"}},
	} {
		t.Run(name, func(t *testing.T) {
			for range 3 {
				n := listen(t, cfg, &echoHost{})
				var dialers sync.WaitGroup
				var mu sync.Mutex
				var all []net.Conn
				ready, once := make(chan struct{}), sync.Once{}
				for i := range 16 {
					a := n.Addrs()[i%len(n.Addrs())]
					dialers.Go(func() {
						for range 40 {
							c, err := net.DialTimeout(a.Network(), a.String(), 30*time.Second)
							if err != nil {
								return // it has stopped
							}
							mu.Lock()
							if all = append(all, c); len(all) == 100 {
								once.Do(func() { close(ready) })
							}
							mu.Unlock()
						}
					})
				}
				<-ready
				if err := n.Stop(within(t, 20*time.Second)); err != nil {
					t.Fatal(err)
				}
				dialers.Wait()
				for i, c := range all {
					c.SetReadDeadline(time.Now().Add(time.Minute))
					if _, err := c.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
						t.Fatalf("connection %d of %d is open behind Stop", i, len(all))
					}
					c.Close()
				}
			}
		})
	}
}
