package services_test

import (
	"testing"
	"testing/synctest"
	"time"

	"millrace/services"
)

// OnLost is called once when a lock expires or the cache stops, and not when its holder released it.
func TestMemoryTellsOfALostLock(t *testing.T) {
	for _, c := range []struct {
		name  string
		renew bool
		end   func(m *services.Memory, token uint64)
		want  int
		free  bool
	}{
		{"its ttl passes", false, func(*services.Memory, uint64) { time.Sleep(2 * time.Second) }, 1, true},
		{"renewed, its ttl passes", true, func(*services.Memory, uint64) { time.Sleep(1000 * time.Hour) }, 0, false},
		{"unlocked", false, func(m *services.Memory, token uint64) { _, _ = m.Unlock(background, "l", token) }, 0, true},
		{"renewed, unlocked", true, func(m *services.Memory, token uint64) { _, _ = m.Unlock(background, "l", token) }, 0, true},
		{"released", true, func(m *services.Memory, _ uint64) { m.Release("me") }, 0, true},
		{"unlocked with another token", true, func(m *services.Memory, token uint64) { _, _ = m.Unlock(background, "l", token+1) }, 0, false},
		{"stopped", true, func(m *services.Memory, _ uint64) { _ = m.Stop(background) }, 1, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMemory(t, services.MemoryConfig{})
				lost := make(chan struct{}, 8)
				token, err := services.LockAndWait(background, m, "l", services.LockOptions{TTL: time.Second, Owner: "me",
					Renew: c.renew, OnLost: func() { lost <- struct{}{} }})
				if token == 0 || err != nil {
					t.Fatal(token, err)
				}
				c.end(m, token)
				synctest.Wait()
				if len(lost) != c.want {
					t.Errorf("OnLost was called %d times, want %d", len(lost), c.want)
				}
				next, _ := services.LockAndWait(background, m, "l", services.LockOptions{TTL: time.Second})
				if next != 0 != c.free {
					t.Errorf("taken again: %v, want %v", next != 0, c.free)
				}
				if c.free && next <= token {
					t.Errorf("got token %d after %d", next, token)
				}
				_ = m.Stop(background)
				time.Sleep(time.Hour)
				synctest.Wait()
				if len(lost) > 1 {
					t.Errorf("OnLost was called %d times for one lock", len(lost))
				}
			})
		})
	}
}

// A waiting caller gets the lock only after OnLost was called for the previous holder.
func TestMemoryTellsOfALossBeforeTheNextHasTheLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, services.MemoryConfig{})
		order := make(chan string, 2)
		if _, err := services.LockAndWait(background, m, "l", services.LockOptions{TTL: time.Second, OnLost: func() { order <- "lost" }}); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Lock("l", services.LockOptions{TTL: time.Second, Wait: time.Minute}, func(uint64, error) { order <- "next" }); err != nil {
			t.Fatal(err)
		}
		time.Sleep(1500 * time.Millisecond)
		synctest.Wait()
		if len(order) != 2 {
			t.Fatalf("%d were told, want 2", len(order))
		}
		if first := <-order; first != "lost" {
			t.Errorf("first: %s, want lost", first)
		}
	})
}
