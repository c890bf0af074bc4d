package services_test

import (
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"millrace/engine"
	"millrace/services"
)

// A room that is alive and idle costs little beside its state, and nothing once it has ended.
func TestIdleRoomsCostLittle(t *testing.T) {
	const most = 600 // bytes
	n := 100_000
	if underRace {
		n = 20_000 // it takes ten times as long
	}
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	type room = services.Room[string, int]
	pool, err := engine.NewPool(engine.PoolConfig{Logger: quiet})
	r := &rig{TB: t}
	r.start(pool, err)
	rs, err := services.NewRooms(services.RoomsConfig[string, int]{Pool: pool, Logger: quiet,
		New: func(*room) (int, error) { return 1, nil }, OnClose: func(*room, engine.Reason) {}})
	must(t, err)
	must(t, rs.Start(background))
	goroutines, before := runtime.NumGoroutine(), heap()
	post := func() {
		var left sync.WaitGroup
		for i := range n {
			left.Add(1)
			for rs.Post(fmt.Sprint("room number ", i), func(r *room) { r.State++; left.Done() }) != nil {
				runtime.Gosched() // their messages may hold StrandMemory
			}
		}
		left.Wait()
	}
	post()
	each := (heap() - before) / int64(n)
	t.Logf("%d bytes a room", each)
	if each > most || rs.Len() != n {
		t.Errorf("%d rooms of %d bytes each, want %d of at most %d", rs.Len(), each, n, most)
	}
	if now := runtime.NumGoroutine(); now > goroutines+8 {
		t.Errorf("%d goroutines, there were %d", now, goroutines)
	}
	must(t, rs.Stop(limited(t)))
	if left := (heap() - before) / int64(n); left > 100 { // the maps keep their places
		t.Errorf("%d bytes a room are left when they have ended", left)
	}
	runtime.KeepAlive(rs)
}

// The state of a room that has ended is nobody's, although no message has come to its key since.
func TestARoomThatHasEndedIsCollected(t *testing.T) {
	rs := open(t, config{New: func(*room) (*[]string, error) { return &[]string{"a"}, nil }})
	collected := make(chan bool)
	posted(t, rs, "tea", func(r *room) {
		runtime.AddCleanup(r.State, func(int) { close(collected) }, 0)
	})
	rs.Close("tea")
	eventually(t, "the end", func() bool { st := rs.Stats(); return st.Rooms == 0 && st.Ending == 0 })
	for end := time.Now().Add(time.Minute); ; {
		runtime.GC()
		select {
		case <-collected:
			runtime.KeepAlive(rs)
			return
		case <-time.After(time.Millisecond):
		}
		if time.Now().After(end) {
			t.Fatal("it is still referred to")
		}
	}
}
