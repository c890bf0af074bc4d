package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"millrace/codec"
	"millrace/internal/faultproxy"
	"millrace/services/client"
)

// call --resume prints what was pushed while its connection was broken.
func TestCallListensOnOverABrokenConnection(t *testing.T) {
	t.Parallel()
	s := serve(t, "--resume=1m")
	between := faultproxy.New(t, strings.TrimPrefix(s.ready[0], "tcp://"))
	cmd := exec.Command(program, "call", "--resume=1m", "--listen", between.Addr(), "1/5", `{"group":"g"}`)
	cmd.Env = environ()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	line := func(want string) {
		t.Helper()
		got := make([]byte, len(want)+1)
		if _, err := io.ReadFull(out, got); err != nil || string(got) != want+"\n" {
			t.Fatalf("got %q, %v, want %q", got, err, want)
		}
	}
	line(`1/5 {"members":1}`)
	c := s.dial()
	c.send(1, 3, "")
	me := c.parse(c.recv())
	for round := range 5 {
		between.Cut()
		for i := range 10 {
			text := fmt.Sprint(round, " ", i)
			c.send(1, 7, fmt.Sprintf(`{"group":"g","data":%q}`, text))
			c.want(1, 7, `{"sent":1}`)
		}
		between.Heal()
		for i := range 10 {
			line(fmt.Sprintf(`1/8 {"group":"g","from":%v,"round":%v,"data":"%d %d"}`, me["index"], me["round"], round, i))
		}
	}
	s.signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		t.Errorf("the server has drained: call --listen ended with %v", err)
	}
}

func TestCallResumeThatCannotBe(t *testing.T) {
	s := serve(t, "--addr=tcp://127.0.0.1:0")
	for _, c := range []struct {
		name string
		args []string
		code int
		says string
	}{
		{"a server without", []string{s.ready[0], "1/1"}, 64, "does not resume sessions"},
		{"Main 0", []string{s.ready[0], "0/1"}, 64, "Main 0"},
		{"no handles", []string{"--framing=line", s.ready[0], "0/0"}, 64, "no handles"},
		{"an address", []string{"127.0.0.1", "1/1"}, 64, "HOST:PORT"},
		{"nobody there", []string{"--timeout=200ms", "tcp://127.0.0.1:1", "1/1"}, 69, "refused"},
		{"a time that is none", []string{"--resume=0s", s.ready[0], "1/1"}, 64, "--resume"},
	} {
		_, stderr, code := millrace(t, nil, "", append([]string{"call", "--resume=1m"}, c.args...)...)
		if code != c.code || !strings.Contains(stderr, c.says) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%s: exit code %d, %q; want %d and a line with %q", c.name, code, stderr, c.code, c.says)
		}
	}
}

// cutAt is a connection that breaks after so many bytes, of both ways.
type cutAt struct {
	net.Conn
	left atomic.Int64
}

func (c *cutAt) Read(b []byte) (int, error) {
	left := c.left.Load()
	if left <= 0 {
		_ = c.Close()
		return 0, net.ErrClosed
	}
	n, err := c.Conn.Read(b[:min(int64(len(b)), left)])
	c.left.Add(-int64(n))
	return n, err
}

func (c *cutAt) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b[:min(int64(len(b)), max(c.left.Load(), 0))])
	if c.left.Add(-int64(n)); n < len(b) && err == nil {
		_ = c.Close()
		err = net.ErrClosed
	}
	return n, err
}

// A client whose connections break at one byte after the other, behind every door: its
// calls have their answers, and what its group is sent comes once and in order.
func TestClientsGoOnOverBrokenConnections(t *testing.T) {
	t.Parallel()
	for _, framing := range []string{"length", "varint"} {
		s := serve(t, "--resume=1m", "--framing="+framing, "--tls-self-signed", "--addr=tcp://127.0.0.1:0", "--addr=tls://127.0.0.1:0",
			"--addr=ws://127.0.0.1:0", "--addr=wss://127.0.0.1:0", "--addr=unix://"+t.TempDir()+"/s")
		framer, err := codec.ParseFramer(framing, 0)
		if err != nil {
			t.Fatal(err)
		}
		for i, addr := range s.ready {
			t.Run(framing+" "+addr[:strings.Index(addr, ":")], func(t *testing.T) {
				var wg sync.WaitGroup
				for k := range 16 {
					wg.Go(func() {
						// TLS and WebSocket have a handshake in front of the frames
						first := int64(map[bool]int{true: 1700, false: 10}[strings.Contains(addr, "tls") || strings.Contains(addr, "wss")] + 31*k)
						goOn(t, addr, fmt.Sprint(i, " ", k), framer, first, 10+37*int64(k), 2000+first)
					})
				}
				wg.Wait()
			})
		}
	}
}

// goOn is one of them. Its n-th connection breaks after cuts[n] bytes.
func goOn(t *testing.T, addr, group string, framer codec.Framer, cuts ...int64) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var made atomic.Int64
	c, err := client.Dial(ctx, client.Config{
		Addrs: []string{addr}, Framer: framer, Resume: time.Minute, TLS: &tls.Config{InsecureSkipVerify: true}, MinBackoff: time.Millisecond, MaxBackoff: 10 * time.Millisecond,
		Dialer: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			cut := &cutAt{Conn: conn}
			cut.left.Store(1 << 60)
			if n := int(made.Add(1)) - 1; n < len(cuts) {
				cut.left.Store(cuts[n])
			}
			return cut, nil
		},
		OnLost: func(err error) {
			if errors.Is(err, client.ErrSession) {
				t.Errorf("cut at %d: %v", cuts, err)
			}
		},
	})
	if err != nil {
		t.Errorf("cut at %d: %v", cuts, err)
		return
	}
	defer c.Close()
	var got, want []string
	heard := make(chan string, 100)
	c.On(client.Handle(1, 8), func(p codec.Packet) {
		_, text, _ := strings.Cut(string(p.Body), `"data":"`)
		heard <- strings.TrimSuffix(text, `"}`)
	})
	call := func(sub uint16, body, want string) {
		if b, err := c.Do(ctx, client.Handle(1, sub), []byte(body)); err != nil || string(b) != want {
			t.Errorf("cut at %d: 1/%d: got %q, %v, want %q", cuts, sub, b, err, want)
		}
	}
	call(5, fmt.Sprintf(`{"group":%q}`, group), `{"members":1}`)
	for i := range 20 {
		want = append(want, fmt.Sprint(i))
		call(7, fmt.Sprintf(`{"group":%q,"data":"%d"}`, group, i), `{"sent":1}`)
		call(1, want[i], want[i])
	}
	for range want {
		select {
		case text := <-heard:
			got = append(got, text)
		case <-ctx.Done():
			t.Errorf("cut at %d: a push was lost", cuts)
			return
		}
	}
	if !slices.Equal(got, want) || len(heard) > 0 {
		t.Errorf("cut at %d: pushes %q, want %q", cuts, got, want)
	}
	if made.Load() < 2 {
		t.Errorf("cut at %d: it never broke", cuts)
	}
}
