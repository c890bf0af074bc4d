package services

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"millrace/engine"
)

// modelRoom is what the model knows of a key's room.
type modelRoom struct {
	life  uint64
	ticks int // since the last message
	stays bool
	said  int // messages
}

// Against a model: which room a message reaches, when one is made, and for what it ends, for
// any order of messages, sweeps, closes and panics.
func TestRoomsModel(t *testing.T) {
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	pool, err := engine.NewPool(engine.PoolConfig{Workers: 2, Logger: log})
	if err == nil {
		err = pool.Start(context.Background())
	}
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Stop(context.Background())
	keys := []string{"a", "b", "c"}
	rapid.Check(t, func(t *rapid.T) {
		const most = 2
		type said struct {
			stays bool
			n     int
		}
		type room = Room[string, *said]
		var mu sync.Mutex
		ended := map[uint64]engine.Reason{} // guarded by mu while rooms end: two may at once
		rs, err := NewRooms(RoomsConfig[string, *said]{
			Pool: pool, MaxRooms: most, Idle: time.Hour, Logger: log, // the test sweeps
			New:    func(*room) (*said, error) { return &said{}, nil },
			OnIdle: func(r *room) bool { return r.State.stays },
			OnClose: func(r *room, why engine.Reason) {
				mu.Lock()
				defer mu.Unlock()
				ended[r.Life()] = why
			},
		})
		if err == nil {
			err = rs.Start(context.Background())
		}
		if err != nil {
			t.Fatal(err)
		}
		model := map[string]*modelRoom{}
		ends := map[uint64]engine.Reason{}
		made := uint64(0)
		// settle waits until nothing runs, so that the model need not know of races. The
		// test may look at ended then: forget comes behind OnClose.
		settle := func() {
			for end := time.Now().Add(time.Minute); rs.all.Load() > int64(len(model)); time.Sleep(10 * time.Microsecond) {
				if time.Now().After(end) {
					t.Fatalf("%d rooms, want %d", rs.all.Load(), len(model))
				}
			}
			for _, key := range keys {
				for {
					rs.shard(key).mu.Lock()
					r := rs.shard(key).rooms[key]
					rs.shard(key).mu.Unlock()
					if r == nil {
						break
					}
					done := make(chan struct{})
					if r.strand.Submit(func() { close(done) }) == nil {
						<-done
						break
					}
					time.Sleep(10 * time.Microsecond) // it ends
				}
			}
		}
		key := rapid.SampledFrom(keys)
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				if rs.Len() != len(model) || rs.lives.Load() != made || len(ended) != len(ends) {
					t.Fatalf("%d rooms, %d made, %d ended; want %d, %d, %d", rs.Len(), rs.lives.Load(), len(ended), len(model), made, len(ends))
				}
				for life, why := range ends {
					if ended[life] != why {
						t.Fatalf("room %d ended for %v, want %v", life, ended[life], why)
					}
				}
				for _, key := range keys {
					r, m := rs.Find(key), model[key]
					if (r != nil) != (m != nil) || r != nil && r.Life() != m.life {
						t.Fatalf("%s: found %v, want %+v", key, r, m)
					}
				}
			},
			"message": func(t *rapid.T) {
				key, stays := key.Draw(t, "key"), rapid.Bool().Draw(t, "stays")
				m := model[key]
				var life uint64
				var n int
				err := rs.Post(key, func(r *room) {
					r.State.n++
					r.State.stays = stays
					life, n = r.Life(), r.State.n
				})
				if m == nil && len(model) == most {
					if err == nil {
						t.Fatalf("a room more than %d", most)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if m == nil {
					made++
					m = &modelRoom{life: made}
					model[key] = m
				}
				m.stays, m.ticks = stays, 0
				m.said++
				settle()
				if life != m.life || n != m.said {
					t.Fatalf("message %d of room %d, want %d of %d", n, life, m.said, m.life)
				}
			},
			"sweep": func(t *rapid.T) {
				rs.sweep()
				for key, m := range model {
					if m.ticks++; m.ticks <= idleParts {
						continue
					}
					m.ticks = 0
					if !m.stays {
						ends[m.life] = engine.ReasonIdle
						delete(model, key)
					}
				}
				settle()
			},
			"close": func(t *rapid.T) {
				key := key.Draw(t, "key")
				if ok := rs.Close(key); ok != (model[key] != nil) {
					t.Fatalf("closed: %v, want %+v", ok, model[key])
				} else if ok {
					ends[model[key].life] = engine.ReasonServerClosed
					delete(model, key)
				}
				settle()
			},
			"panic": func(t *rapid.T) {
				key := key.Draw(t, "key")
				r := rs.Find(key)
				if r == nil {
					t.Skip()
				}
				if err := r.Post(func(*room) { panic("of the test") }); err != nil {
					t.Fatal(err)
				}
				ends[model[key].life] = engine.ReasonPanic
				delete(model, key)
				settle()
			},
			"stop": func(t *rapid.T) {
				if rapid.IntRange(0, 9).Draw(t, "really") > 0 {
					t.Skip()
				}
				if err := rs.Stop(context.Background()); err != nil {
					t.Fatal(err)
				}
				for key, m := range model {
					ends[m.life] = engine.ReasonStopped
					delete(model, key)
				}
				if err := rs.Start(context.Background()); err != nil {
					t.Fatal(err)
				}
			},
		})
		if err := rs.Stop(context.Background()); err != nil {
			t.Fatal(err)
		}
		if n := rs.all.Load(); n != 0 {
			t.Fatalf("%d rooms are left", n)
		}
	})
}
