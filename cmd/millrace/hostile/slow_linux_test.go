package hostile

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// many is the number of clients that misbehave at the same time.
func many(short, whole int) int {
	if *long {
		return whole
	}
	return short
}

// Clients that send a byte now and then and never a whole frame are told so when their time is
// over, not before; others are served meanwhile as if they were not there.
func TestDripsEndWhenTheirTimeIsOver(t *testing.T) {
	t.Parallel()
	s := serve(t, "--first-frame-timeout=1500ms", "--frame-timeout=1500ms")
	before := s.fds()
	good := behave(s, 2)
	n := many(200, 500)
	var told, early atomic.Int64
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			from := time.Now() // the server begins to count later
			c, err := s.try(0)
			if err != nil {
				t.Errorf("dial: %v", err)
				return
			}
			defer c.Close()
			if i%2 == 0 { // the second frame, not the first
				if _, err := c.call(time.Minute, 1, 1, "whole"); err != nil {
					t.Errorf("echo: %v", err)
					return
				}
				from = time.Now()
			}
			go func() {
				for b := wire(nil, 1, 1, "a frame that takes for ever"); len(b) > 1 && c.put(b[:1], time.Second) == nil; b = b[1:] {
					<-time.After(200 * time.Millisecond)
				}
			}()
			for {
				f, err := c.next(30 * time.Second)
				if err != nil {
					if timedOut(err) {
						t.Errorf("drip %d: still there after 30 s", i)
					}
					return
				}
				if code, about := f.errorCode(); code == 5 && about == 0 {
					told.Add(1)
					if time.Since(from) < 1400*time.Millisecond {
						early.Add(1)
					}
				} else if !f.is(1, 2) {
					t.Errorf("drip %d: got %v, want ERROR 5", i, f)
				}
			}
		})
	}
	all.Wait()
	if told.Load() != int64(n) || early.Load() != 0 {
		t.Errorf("%d of %d were told of the timeout, %d too early", told.Load(), n, early.Load())
	}
	rest(good)
	for i, h := range good {
		if err := h.check(good, 20*time.Second); err != nil {
			t.Errorf("healthy client %d: %v", i, err)
		}
	}
	latency(t, good)
	for _, h := range good {
		h.c.Close()
	}
	s.settle(before, 15*time.Second)
}

// A storm of connections to a server that is full: each has an outcome, those who are in are
// served on, and when it is over there is room again.
func TestStormOfConnectionsDisturbsNobody(t *testing.T) {
	t.Parallel()
	s := serve(t, "--max-conns=20", "--max-refused=1000")
	before := s.fds()
	good := behave(s, 4)
	n := many(1000, 5000)
	var served, told, ended atomic.Int64
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			for range n / 50 {
				c, err := s.try(0)
				if err != nil {
					t.Errorf("dial: %v", err)
					continue
				}
				f, err := c.call(time.Minute, 1, 1, "storm")
				switch code, _ := f.errorCode(); {
				case err == nil && code == 12:
					told.Add(1)
				case err == nil && f.is(1, 1):
					served.Add(1)
				case err != nil && timedOut(err):
					t.Error("a connection without an outcome")
				default:
					ended.Add(1)
				}
				c.Close()
			}
		})
	}
	all.Wait()
	t.Logf("%d dials: %d served, %d told that the server is full, %d ended without a word", n, served.Load(), told.Load(), ended.Load())
	if told.Load() == 0 || served.Load() == 0 {
		t.Error("it was never full, or always")
	}
	if ended.Load() > int64(n/20) {
		t.Errorf("%d of %d ended without a word", ended.Load(), n)
	}
	rest(good)
	for i, h := range good {
		if err := h.check(good, 20*time.Second); err != nil {
			t.Errorf("healthy client %d: %v", i, err)
		}
	}
	latency(t, good)
	for _, h := range good {
		h.c.Close()
	}
	s.settle(before, 15*time.Second)
	c := s.dial()
	c.want(1, 1, fmt.Sprint("room for ", n), "room for")
}
