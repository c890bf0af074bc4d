package hostile

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// badHeader is a length that no frame may have.
func badHeader() []byte { return header(nil, 1<<31) }

// lastIsBadFrame returns an error unless the stream ended with a FIN behind exactly one
// ERROR 1 about nothing.
func lastIsBadFrame(all []frame, end error) error {
	at := slices.IndexFunc(all, func(f frame) bool { code, handle := f.errorCode(); return code == 1 && handle == 0 })
	switch {
	case at < 0:
		return fmt.Errorf("no ERROR 1 among %d frames, the last %v, then %v", len(all), all[max(len(all)-1, 0):], end)
	case at != len(all)-1:
		return fmt.Errorf("%d frames behind ERROR 1, the first %v", len(all)-1-at, all[at+1])
	case !errors.Is(end, io.EOF):
		return fmt.Errorf("behind ERROR 1: %w, want a FIN", end)
	}
	return nil
}

// ERROR 1 is the last frame that a client gets, also while others broadcast and send to
// its group, whether it reads at once, is served slowly, or has much to read first.
func TestNothingComesBehindTheErrorOfABadFrame(t *testing.T) {
	const clients, atOnce = 900, 30
	s := serve(t, smallSend, "--spare-workers=64")
	var senders sync.WaitGroup
	stop := make(chan struct{})
	for _, push := range [][]byte{
		repeat(8, 1, 2, "to all"), repeat(8, 1, 7, `{"group":"g","data":"to the group"}`), repeat(2, 1, 2, strings.Repeat("l", 500)),
	} {
		c := s.dial()
		go io.Copy(io.Discard, c.Conn)
		senders.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(200 * time.Microsecond):
				}
				if err := c.put(push, 5*time.Second); err != nil {
					t.Errorf("a sender: %v", err)
					return
				}
			}
		})
	}
	var mu sync.Mutex
	faults := 0
	for range clients / atOnce {
		var wg sync.WaitGroup
		for i := range atOnce {
			c := s.dialSmall(16 * kib)
			wg.Go(func() {
				if err := badFrame(c, i%3); err != nil {
					mu.Lock()
					defer mu.Unlock()
					if faults++; faults <= 3 {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
	}
	close(stop)
	senders.Wait()
	t.Logf("%d of %d clients saw something else than ERROR 1 at the end", faults, clients)
}

// badFrame joins the group, sends a request and a bad length, and returns what is wrong
// with what comes back.
func badFrame(c *client, mode int) error {
	b := wire(nil, 1, 5, `{"group":"g"}`)
	main, sub := uint16(1), uint16(1)
	switch mode {
	case 0:
		b = wire(b, 1, 1, "in front")
	case 1:
		sub = 4
		b = wire(b, 1, 4, `{"ms":30}`)
	case 2:
		b = append(b, repeat(10, 1, 1, strings.Repeat("f", 10*kib))...)
	}
	c.put(append(b, badHeader()...), 5*time.Second)
	if mode == 2 {
		<-time.After(50 * time.Millisecond)
	}
	all, end := c.rest(5 * time.Second)
	err := lastIsBadFrame(all, end)
	if !slices.ContainsFunc(all, func(f frame) bool { return f.is(main, sub) }) {
		err = errors.Join(err, fmt.Errorf("the %d/%d in front is not answered", main, sub))
	}
	return err
}

// What waits in front of a bad frame is answered before the ERROR, as it is before a FIN.
func TestRequestsInFrontOfABadFrameAreAnsweredFirst(t *testing.T) {
	t.Parallel()
	s := serve(t)
	holder := s.dial()
	holder.want(5, 4, `{"key":"k","ttl_ms":60000,"wait_ms":0}`, `"locked":true`)
	for _, c := range []struct {
		name       string
		main, sub  uint16
		body, want string
	}{
		{"a lock that is waited for in vain", 5, 4, `{"key":"k","ttl_ms":1000,"wait_ms":700}`, `"locked":false`},
		{"a handler that sleeps", 1, 4, `{"ms":500}`, `"slept_ms"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			waiter := s.dial()
			waiter.put(append(wire(nil, c.main, c.sub, c.body), badHeader()...), time.Second)
			all, end := waiter.rest(5 * time.Second)
			checkHeld(t, c.main, c.sub, c.want, all, end)
		})
	}
	t.Run("a lock that becomes free", func(t *testing.T) {
		holder := s.dial()
		holder.want(5, 4, `{"key":"free","ttl_ms":60000,"wait_ms":0}`, `"locked":true`)
		waiter := s.dial()
		waiter.want(1, 1, "x", "x")
		waiter.put(append(wire(nil, 5, 4, `{"key":"free","ttl_ms":1000,"wait_ms":5000}`), badHeader()...), time.Second)
		<-time.After(300 * time.Millisecond)
		holder.Close() // which frees it
		all, end := waiter.rest(8 * time.Second)
		checkHeld(t, 5, 4, `"locked":true`, all, end)
	})
}

func checkHeld(t *testing.T, main, sub uint16, want string, all []frame, end error) {
	t.Helper()
	t.Logf("got %v, then %v", all, end)
	if len(all) == 0 || !all[0].is(main, sub) || !strings.Contains(all[0].body, want) {
		t.Errorf("the first frame is not %d/%d with %s", main, sub, want)
	}
	if err := lastIsBadFrame(all, end); err != nil {
		t.Error(err)
	}
}

// A client that pipelines small requests flat out doesn't make another one of its loop
// wait, however cheap the requests are and however many of them one read brings.
func TestFloodOfSmallRequestsDoesNotDelayOthers(t *testing.T) {
	for _, c := range []struct {
		name  string
		flood []byte
		args  []string
	}{
		{"echo", repeat(64*kib, 1, 1, ""), nil},
		{"echo,read-buffer=1MiB", repeat(64*kib, 1, 1, ""), []string{"--read-buffer=1MiB"}},
		{"sum,inline", repeat(32*kib, 4, 4, `{"a":1,"b":2}`), []string{"--dispatch=inline"}},
		{"sum,inline,read-buffer=1MiB", repeat(32*kib, 4, 4, `{"a":1,"b":2}`), []string{"--dispatch=inline", "--read-buffer=1MiB", "--max-outbound=16MiB"}},
	} {
		t.Run(c.name, func(t *testing.T) { besideFlood(t, c.flood, c.args) })
	}
}

func besideFlood(t *testing.T, flood []byte, args []string) {
	s := serve(t, append(args, "--loops=1")...)
	flooder := s.dial()
	go func() {
		for flooder.put(flood, 10*time.Second) == nil {
		}
	}()
	go io.Copy(io.Discard, flooder.Conn)
	beside, elsewhere := s.dial(), serve(t, "--loops=1").dial()
	// A busy machine only adds to what the server takes, and to what another server takes,
	// that nobody floods: the best of three counts.
	var p99, alone time.Duration
	for range 3 {
		if p99, alone = echoTimes(t, beside, elsewhere); p99 <= alone+50*time.Millisecond {
			return
		}
	}
	t.Errorf("p99 is %v, and %v elsewhere, want at most 50 ms more", p99, alone)
}

// echoTimes sends echoes by two clients in turn, for a second, and returns the 99th percentile
// of the times of each.
func echoTimes(t *testing.T, beside, elsewhere *client) (p99, alone time.Duration) {
	var took [2][]time.Duration
	for end := time.Now().Add(time.Second); time.Now().Before(end); {
		for i, c := range []*client{beside, elsewhere} {
			from := time.Now()
			c.want(1, 1, "here", "here")
			took[i] = append(took[i], time.Since(from))
		}
		<-time.After(2 * time.Millisecond)
	}
	for i, where := range []string{"beside the flood", "elsewhere"} {
		all := took[i]
		slices.Sort(all)
		t.Logf("%d echoes %s: median %v, p99 %v, worst %v", len(all), where, all[len(all)/2], all[len(all)*99/100], all[len(all)-1])
	}
	n := len(took[0]) * 99 / 100
	return took[0][n], took[1][n]
}

// A client that downloads what it asked for is not idle, however long it takes; one that
// neither sends nor receives is.
func TestIdleTimeoutSparesASlowDownload(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"--idle-timeout=1s", smallSend}, {"--idle-timeout=1s"}} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			t.Parallel()
			idleDownload(t, append(args, "--max-outbound=16MiB", "--max-frame=1MiB"))
		})
	}
	t.Run("idle", func(t *testing.T) {
		t.Parallel()
		s := serve(t, "--idle-timeout=1s")
		var c *client
		var from time.Time
		for began := false; !began; { // where the machine has the client wait, it is idle before
			c, from = s.dial(), time.Now()
			f, err := c.call(time.Minute, 1, 1, "x")
			if began = err == nil && f.is(1, 1); !began && time.Since(from) < time.Second {
				t.Fatalf("got %v, %v after %v", f, err, time.Since(from))
			}
			from = time.Now()
		}
		all, end := c.rest(20 * time.Second)
		took := time.Since(from)
		t.Logf("closed after %v", took.Round(10*time.Millisecond))
		code, handle := 0, uint32(1)
		if len(all) == 1 {
			code, handle = all[0].errorCode()
		}
		if code != 5 || handle != 0 || !errors.Is(end, io.EOF) || took < 900*time.Millisecond || took > 10*time.Second {
			t.Errorf("got %v and %v after %v, want ERROR 5 about 0 and FIN after 1 s", all, end, took)
		}
	})
}

// idleDownload downloads at a rate that never is a second without progress, once more where the
// machine has made it one.
func idleDownload(t *testing.T, args []string) {
	s := serve(t, args...)
	for try := 1; ; try++ {
		pause, err := slowDownload(s)
		if err == nil {
			return
		}
		if pause < 500*time.Millisecond || try == 8 {
			t.Fatalf("longest pause %v: %v", pause.Round(time.Millisecond), err)
		}
		t.Logf("once more, as it paused for %v: %v", pause.Round(time.Millisecond), err)
	}
}

// slowDownload reads 2 MiB in 4 s, in small reads, and returns the longest time without progress.
func slowDownload(s *server) (pause time.Duration, err error) {
	const requests, body = 10, 200 * kib
	c := s.dialSmall(16 * kib)
	defer c.Close()
	from := time.Now()
	last := from
	progress := func() {
		now := time.Now()
		last, pause = now, max(pause, now.Sub(last))
	}
	err = c.put(repeat(requests, 1, 1, strings.Repeat("i", body)), time.Minute)
	progress()
	for left, slow := requests*(8+body), make([]byte, 8*kib); left > 0 && err == nil; progress() {
		var n int
		c.SetReadDeadline(time.Now().Add(time.Minute))
		n, err = c.r.Read(slow)
		if left -= n; err != nil {
			err = fmt.Errorf("cut after %v with %d of %d bytes to come: %w", time.Since(from).Round(time.Millisecond), left, requests*(8+body), err)
		}
		<-time.After(time.Duration(n) * 4 * time.Second / (requests * body))
	}
	if err != nil {
		return pause, err
	}
	f, err := c.call(time.Minute, 1, 1, "next")
	if err == nil && f.body != "next" {
		err = fmt.Errorf("the request after a download of %v: got %v", time.Since(from).Round(time.Millisecond), f)
	}
	progress()
	return pause, err
}
