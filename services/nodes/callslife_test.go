package nodes_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"millrace/internal/faultproxy"
	"millrace/services/nodes"
)

// While servers that are there take nothing, whoever tells them what is served waits; calls that
// stay on the node don't.
func TestCallsHereDoNotWaitForTheServers(t *testing.T) {
	url := servers(t)
	host := url[strings.Index(url, "@")+1:]
	proxy := faultproxy.New(t, host)
	a := start(t, strings.Replace(url, host, proxy.Addr(), 1), "a", sums(t), func(s *settings) { s.timeout = time.Minute })
	body := make([]byte, 32<<10)
	a.clog(proxy, 2048, func() error { return a.Broadcast(nil, 1, 1, body) })
	serving := make(chan error, 1)
	go func() {
		serving <- nodes.Serve(a.Node, hOther, func(context.Context, *sum) (total, error) { return total{}, nil })
	}()
	eventually(t, "the handle is served", func() bool {
		_, err := nodes.Call[sum, total](background, a.Node, hOther, sum{}, nodes.CallOptions{Node: "a"})
		return err == nil
	})
	if _, err := a.callAndWait(nodes.CallOptions{}); err != nil {
		t.Error(err)
	}
	select {
	case err := <-serving:
		t.Fatalf("the servers took it: the test shows nothing: %v", err)
	default:
	}
	proxy.Heal()
	if err := <-serving; err != nil {
		t.Error(err)
	}
}
