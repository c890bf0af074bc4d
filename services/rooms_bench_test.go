package services_test

import (
	"testing"

	"millrace/engine"
	"millrace/services"
)

// BenchmarkRoomPost is a message's way to a room, by its key or by the room, beside that of a
// function to a session: 512 at a time, with what runs them.
func BenchmarkRoomPost(b *testing.B) {
	const burst = 512
	n, done := 0, make(chan struct{})
	count := func() {
		if n++; n == burst {
			n = 0
			done <- struct{}{}
		}
	}
	type room = services.Room[string, *[]string]
	message := func(*room) { count() }
	run := func(b *testing.B, post func() error) {
		b.ReportAllocs()
		i := 0
		one := func() {
			if err := post(); err != nil {
				b.Fatal(err)
			}
			if i++; i%burst == 0 {
				<-done
			}
		}
		for b.Loop() {
			one()
		}
		for i%burst > 0 { // the next one begins anew
			one()
		}
	}
	b.Run("session", func(b *testing.B) {
		r := serve(b, nil, func(*services.Controller) {})
		met := make(chan *engine.Session, 1)
		r.c.OnAccept(func(s *engine.Session) { met <- s })
		r.wire()
		s := <-met
		run(b, func() error { return s.Submit(count) })
	})
	b.Run("session by ID", func(b *testing.B) {
		r := serve(b, nil, func(*services.Controller) {})
		met := make(chan *engine.Session, 1)
		r.c.OnAccept(func(s *engine.Session) { met <- s })
		r.wire()
		id := (<-met).ID()
		run(b, func() error { return r.srv.Session(id).Submit(count) })
	})
	rs := open(b, config{})
	posted(b, rs, "tea", func(*room) {})
	b.Run("room by key", func(b *testing.B) { run(b, func() error { return rs.Post("tea", message) }) })
	r := rs.Find("tea")
	b.Run("room", func(b *testing.B) { run(b, func() error { return r.Post(message) }) })
	b.Run("room's Submit", func(b *testing.B) { run(b, func() error { return r.Submit(count) }) })
}
