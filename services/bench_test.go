package services_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"millrace/codec"
	"millrace/engine"
	"millrace/services"
	"millrace/services/serial"
)

type benchReq struct {
	A int64 `json:"a"`
	B int64 `json:"b"`
}

type benchRes struct {
	Sum int64 `json:"sum"`
}

// BenchmarkDispatch is a whole request over loopback TCP: 64 frames are
// written at once and their 64 answers read, by one client. "bare" is the
// engine with a handler that replies with the body.
func BenchmarkDispatch(b *testing.B) {
	add := services.Stages[benchReq, benchRes]{
		Handle: func(_ *services.Context, req *benchReq, res *benchRes) error {
			res.Sum = req.A + req.B
			return nil
		}}
	proto := services.Stages[*wrapperspb.Int64Value, *wrapperspb.Int64Value]{
		Handle: func(_ *services.Context, req, res **wrapperspb.Int64Value) error { *res = *req; return nil }}
	raw := services.Stages[[]byte, []byte]{
		Handle: func(_ *services.Context, req, res *[]byte) error { *res = *req; return nil }}
	pack := serial.MessagePack(serial.Limits{})
	encode := func(s serial.Serializer, v any) []byte {
		body, err := s.Append(nil, v)
		must(b, err)
		return body
	}
	in := &benchReq{123, 4567}
	for _, c := range []struct {
		name     string
		register func(c *services.Controller) error
		body     []byte
	}{
		{"bare", nil, []byte(`{"a":123,"b":4567}`)},
		{"raw", func(c *services.Controller) error {
			return services.Register(c, hSum, raw, services.With(serial.Raw(serial.Limits{})))
		}, []byte(`{"a":123,"b":4567}`)},
		{"json", func(c *services.Controller) error { return services.Register(c, hSum, add) }, encode(serial.JSON(serial.Limits{}), in)},
		{"msgpack", func(c *services.Controller) error { return services.Register(c, hSum, add, services.With(pack)) }, encode(pack, in)},
		{"protobuf", func(c *services.Controller) error {
			return services.Register(c, hSum, proto, services.With(serial.Protobuf(serial.Limits{})))
		}, encode(serial.Protobuf(serial.Limits{}), wrapperspb.Int64(4567))},
	} {
		b.Run(c.name, func(b *testing.B) {
			r := serve(b, func(_ *services.ControllerConfig, ec *engine.Config) {
				ec.Loops = 1
				ec.Dispatch = engine.Inline
			}, func(ctl *services.Controller) {
				if c.register != nil {
					must(b, c.register(ctl))
				}
			})
			if c.register == nil {
				r.srv.SetHandler(bare{})
			}
			const depth = 64
			w := r.wire()
			var out []byte
			for range depth {
				out = codec.Packet{Main: 4, Sub: 3, Body: c.body}.Append(out)
			}
			b.ReportAllocs()
			b.ResetTimer()
			for n := 0; n < b.N; n += depth {
				if _, err := w.Write(out); err != nil {
					b.Fatal(err)
				}
				for range depth {
					if p, err := w.r.Next(); err != nil || p.Main != 4 {
						b.Fatal(p, err)
					}
				}
			}
		})
	}
}

type bare struct{}

func (bare) OnSocketAccept(*engine.Session)                 {}
func (bare) OnSocketRead(s *engine.Session, p codec.Packet) { _ = s.Reply(p, p.Body) }
func (bare) OnSocketClose(*engine.Session, engine.Reason)   {}

var sink benchRes

// BenchmarkInline is a call in line beside the three functions called plainly.
func BenchmarkInline(b *testing.B) {
	pre := func(_ *services.Context, req *benchReq, _ *benchRes) error { req.A++; return nil }
	handle := func(_ *services.Context, req *benchReq, res *benchRes) error { res.Sum = req.A + req.B; return nil }
	last := func(_ *services.Context, _ *benchReq, res *benchRes) error { res.Sum++; return nil }
	c, err := services.NewController(services.ControllerConfig{})
	must(b, err)
	for i := range uint16(50) {
		must(b, services.Register(c, services.Handle(1, i), services.Stages[benchReq, benchRes]{Pre: pre, Handle: handle, Last: last}))
	}
	ctx := c.Context(nil)
	b.Run("plain", func(b *testing.B) {
		b.ReportAllocs()
		fns := []func(*services.Context, *benchReq, *benchRes) error{pre, handle, last}
		var req benchReq
		var res benchRes
		for b.Loop() {
			req, res = benchReq{1, 2}, benchRes{}
			for _, fn := range fns {
				if err := fn(ctx, &req, &res); err != nil {
					b.Fatal(err)
				}
			}
			sink = res
		}
	})
	b.Run("inline", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			res, err := services.Inline[benchReq, benchRes](ctx, services.Handle(1, 20), benchReq{1, 2})
			if err != nil {
				b.Fatal(err)
			}
			sink = res
		}
	})
}

// BenchmarkMemory is the in-process cache beside a map under one mutex.
func BenchmarkMemory(b *testing.B) {
	const keys = 1 << 10
	var names [keys]string
	for i := range names {
		names[i] = fmt.Sprint("key-", i)
	}
	val := []byte("0123456789abcdef")
	each := func(name string, fn func(key string)) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					fn(names[i%keys])
				}
			})
		})
	}
	m := newMemory(b, services.MemoryConfig{})
	var mu sync.Mutex
	plain := map[string][]byte{}
	for _, k := range names {
		_, _ = m.Set(background, k, val, 0)
		plain[k] = val
	}
	each("get/map", func(k string) { mu.Lock(); _ = plain[k]; mu.Unlock() })
	each("get/memory", func(k string) { _, _ = m.Get(background, k) })
	each("set/map", func(k string) { mu.Lock(); plain[k] = append([]byte(nil), val...); mu.Unlock() })
	each("set/memory", func(k string) { _, _ = m.Set(background, k, val, 0) })
	each("cas/map", func(k string) {
		mu.Lock()
		if string(plain[k]) == string(val) {
			plain[k] = append([]byte(nil), val...)
		}
		mu.Unlock()
	})
	each("cas/memory", func(k string) { _, _, _ = m.CompareAndSet(background, k, val, val, 0) })
	each("set with ttl/memory", func(k string) { _, _ = m.Set(background, k, val, time.Minute) })
	o := services.LockOptions{TTL: time.Minute}
	each("lock+unlock/memory", func(k string) {
		var token uint64
		_, _ = m.Lock(k, o, func(t uint64, _ error) { token = t })
		_, _ = m.Unlock(background, k, token)
	})
}
