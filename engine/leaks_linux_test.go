package engine

import (
	"context"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"
)

// openFiles counts this process's descriptors.
func openFiles(t testing.TB) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip(err)
	}
	return len(d)
}

// Sessions that come, ask and go leave nothing: the heap, the goroutines and the descriptors
// are the same after a few thousand as after four times as many.
func TestSessionsThatComeAndGoLeaveNothing(t *testing.T) {
	n := 1000
	if *long {
		n = 50_000
	}
	srv := serve(t, Config{Limits: Limits{MaxConns: 100}, Recorder: RecorderErrors, Timeouts: Timeouts{Linger: 20 * time.Millisecond}}, &funcs{
		accept: func(s *Session) { srv := s.Server(); srv.Group("all").Join(s); s.SetValue(make([]byte, 100)) },
		read:   echo,
	})
	round := func(n int) {
		var all sync.WaitGroup
		for i := range 4 {
			all.Go(func() {
				for k := range n / 4 {
					c, err := net.DialTimeout("tcp", srv.Addrs()[0].String(), 30*time.Second)
					if err != nil {
						t.Error(err)
						return
					}
					c.SetDeadline(time.Now().Add(30 * time.Second))
					c.Write(frame(1, 1, "here"))
					if got, err := c.Read(make([]byte, 100)); err != nil {
						t.Errorf("%d bytes, %v", got, err)
					}
					if (k+i)%3 == 0 {
						c.(*net.TCPConn).SetLinger(0)
					}
					c.Close()
				}
			})
		}
		all.Wait()
		waitFor(t, "the sessions to end", func() bool { return srv.table.count() == 0 })
	}
	round(n)
	before, routines, files := heap(), runtime.NumGoroutine(), openFiles(t)
	round(3 * n)
	more := before/20 + 100<<10
	var heap2, routines2, files2 int
	waitFor(t, "heap, goroutines and descriptors to be as before", func() bool {
		heap2, routines2, files2 = heap(), runtime.NumGoroutine(), openFiles(t)
		return heap2 <= before+more && routines2 <= routines && files2 <= files
	})
	t.Logf("after %d sessions heap %d, %d goroutines, %d files; after %d more %d, %d, %d", n, before, routines, files, 3*n, heap2, routines2, files2)
}

// A server that is stopped while connections pour in closes every one of them, and leaves no
// descriptor and no goroutine.
func TestStopInABurstLeavesNothing(t *testing.T) {
	files, routines := 0, 0
	for i := range 5 {
		if i == 1 { // the first start made what stays
			files, routines = openFiles(t), runtime.NumGoroutine()
		}
		srv, err := New(Config{Addrs: []string{[]string{"tcp://127.0.0.1:0", "unix://" + t.TempDir() + "/s"}[i/2%2]}, Accept: AcceptMode(i % 2), Limits: Limits{MaxConns: 200}, Timeouts: Timeouts{Linger: 20 * time.Millisecond}, Logger: quiet}, &funcs{read: echo})
		if err != nil {
			t.Fatal(err)
		}
		if err := srv.Start(context.Background()); err != nil {
			t.Fatal(err)
		}
		at := srv.Addrs()[0]
		var all sync.WaitGroup
		var mu sync.Mutex
		var conns []net.Conn
		for range 16 {
			all.Go(func() {
				for range 30 {
					c, err := net.DialTimeout(at.Network(), at.String(), 30*time.Second)
					if err != nil {
						return // it has stopped
					}
					mu.Lock()
					conns = append(conns, c)
					mu.Unlock()
				}
			})
		}
		waitFor(t, "the burst", func() bool { return srv.Stats().Accepts > 50 })
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		err = srv.Stop(ctx)
		cancel()
		all.Wait()
		for _, c := range conns {
			c.Close()
		}
		if err != nil {
			t.Errorf("Stop: %v", err)
		}
	}
	var files2, routines2 int
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		files2, routines2 = openFiles(t), runtime.NumGoroutine()
		if files2 <= files && routines2 <= routines {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d descriptors and %d goroutines, %d and %d before", files2, routines2, files, routines)
		}
	}
}
