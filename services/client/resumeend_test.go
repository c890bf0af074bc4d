package client_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/codec"
	"millrace/services/client"
)

// slowConn is a connection whose writes can be held up.
type slowConn struct {
	net.Conn
	hold *atomic.Pointer[chan struct{}]
	held chan struct{} // one for each write that is
}

func (c slowConn) Write(b []byte) (int, error) {
	if hold := c.hold.Load(); hold != nil {
		c.held <- struct{}{}
		<-*hold
		return 0, net.ErrClosed
	}
	return c.Conn.Write(b)
}

// When a connection is lost for good, a call that it was given may have run, and one that
// was not goes to the next one.
func TestACallThatWasNotWrittenGoesToTheNextConnection(t *testing.T) {
	for name, resume := range map[string]time.Duration{"with resume": time.Minute, "without": 0} {
		t.Run(name, func(t *testing.T) {
			s := newResumer(t, "tcp")
			var hold atomic.Pointer[chan struct{}]
			held := make(chan struct{}, 10)
			c := s.dial(func(cfg *client.Config) {
				cfg.Resume = resume
				cfg.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
					conn, err := new(net.Dialer).DialContext(ctx, network, addr)
					return slowConn{conn, &hold, held}, err
				}
			})
			if _, err := c.Do(soon(t), hEcho, nil); err != nil {
				t.Fatal(err)
			}
			over := make(chan struct{})
			hold.Store(&over)
			given, waits := make(chan error, 1), make(chan error, 10)
			go func() {
				_, err := c.Do(soon(t), hEcho, []byte("given"))
				given <- err
			}()
			<-held
			var wg sync.WaitGroup
			for i := range 5 {
				wg.Go(func() {
					text := fmt.Sprint("waits ", i)
					b, err := c.Do(soon(t), hEcho, []byte(text))
					if err == nil && string(b) != text {
						err = fmt.Errorf("got %q", b)
					}
					waits <- err
				})
			}
			s.look("all are queued", func() bool { return c.Unwritten() == 5 })
			s.mu.Lock()
			s.sessions = nil
			s.mu.Unlock()
			hold.Store(nil)
			close(over)
			s.breakAll()
			if err := <-given; !errors.Is(err, client.ErrLost) {
				t.Errorf("given to the connection: got %v", err)
			}
			wg.Wait()
			for range 5 {
				if err := <-waits; err != nil {
					t.Errorf("not given to it: %v", err)
				}
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			if len(s.ran) != 6 && !t.Failed() {
				t.Errorf("ran %q, want the first and each that was not given once", s.ran)
			}
		})
	}
}

// The time that the network was away is not the server's: an answer that was held up, of a
// call that was given up, does not end the session.
func TestAnAnswerIsNotLateForTheNetworksSake(t *testing.T) {
	s := newResumer(t, "tcp")
	var away atomic.Bool
	const late = time.Second
	c := s.dial(func(cfg *client.Config) {
		cfg.MaxLate = late
		cfg.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if away.Load() {
				return nil, errors.New("no network")
			}
			return new(net.Dialer).DialContext(ctx, network, addr)
		}
	})
	if _, err := c.Do(soon(t), hEcho, nil); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(soon(t))
	done := make(chan error, 1)
	go func() {
		_, err := c.Do(ctx, hSilent, nil)
		done <- err
	}()
	s.look("the request is there", func() bool { return len(s.ran) == 2 })
	away.Store(true)
	s.breakAll()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	time.Sleep(late + 100*time.Millisecond) // the fault itself
	away.Store(false)
	if b, err := c.Do(soon(t), hEcho, []byte("x")); string(b) != "x" || err != nil {
		t.Errorf("got %q, %v", b, err)
	}
	time.Sleep(late / 2) // the server's own time, in which the client looks twice
	s.mu.Lock()
	s.sessions[0].conn.counted(codec.Packet{Main: 5, Sub: 1})
	s.mu.Unlock()
	if b, err := c.Do(soon(t), hEcho, []byte("x")); string(b) != "x" || err != nil {
		t.Errorf("got %q, %v", b, err)
	}
	if st := c.ResumeStats(); st.Lost != 0 || st.Resumed == 0 {
		t.Errorf("got %+v, want the session to go on", st)
	}
}

// noting is a connection that notes the order of its end.
type noting struct {
	*net.TCPConn
	note func(string)
}

func (c noting) Read(b []byte) (int, error) {
	n, err := c.TCPConn.Read(b)
	if err != nil {
		c.note("read the end")
	}
	return n, err
}

func (c noting) CloseWrite() error {
	c.note("CloseWrite")
	return c.TCPConn.CloseWrite()
}

func (c noting) Close() error {
	c.note("Close")
	return c.TCPConn.Close()
}

// A socket that is closed with bytes that nobody has read is reset, and with it goes a BYE
// that is still on its way: the client reads on until the server has ended too.
func TestCloseReadsOnBehindItsBye(t *testing.T) {
	s := newResumer(t, "tcp")
	var mu sync.Mutex
	var notes []string
	c := s.dial(func(cfg *client.Config) {
		cfg.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return noting{conn.(*net.TCPConn), func(what string) {
				mu.Lock()
				defer mu.Unlock()
				notes = append(notes, what)
			}}, nil
		}
	})
	c.Close()
	mu.Lock()
	defer mu.Unlock()
	if want := []string{"CloseWrite", "read the end", "Close"}; len(notes) < 3 || !slices.Equal(notes[:3], want) {
		t.Errorf("got %q, want %q", notes, want)
	}
}

// Without Resume the client is what it was: it sends nothing of HELLO, ACK and BYE.
func TestWithoutResumeNothingOfItIsSent(t *testing.T) {
	f := listen(t, codec.Layout{}, func(p *peer, pk codec.Packet) {
		if pk.Main == 0 && pk.Sub > 4 {
			t.Errorf("it sent %d/%d", pk.Main, pk.Sub)
		}
		p.send(pk)
	})
	refused := 0
	c := f.dial(func(cfg *client.Config) {
		cfg.MinBackoff, cfg.MaxBackoff = time.Microsecond, time.Microsecond
		cfg.OnConnect = func(ctx context.Context, c *client.Client) error {
			if _, err := c.Do(ctx, hEcho, nil); err != nil {
				return err
			}
			if refused++; refused < 90 {
				return errors.New("not yet")
			}
			return nil
		}
	})
	for range 200 {
		if _, err := c.Do(soon(t), hEcho, make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
	}
	if c.ResumeStats() != (client.ResumeStats{}) {
		t.Errorf("got %+v", c.ResumeStats())
	}
}
