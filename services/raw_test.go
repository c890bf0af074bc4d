package services_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"millrace/codec"
	"millrace/engine"
	"millrace/services"
)

// A Raw handle is served with nothing around it, at any Main and Sub, and each of its
// requests has an answer, in order.
func TestRawHandles(t *testing.T) {
	near, far := services.Handle(7, 15), services.Handle(8, 1)
	broken := services.Handle(7, 2)
	r := serve(t, nil, func(c *services.Controller) {
		c.UseAll(func(services.Next) services.Next {
			return func(*services.Context) error { return errors.New("middleware is not for raw handles") }
		})
		echo := func(s *engine.Session, p codec.Packet) error { return s.Reply(p, p.Body) }
		must(t, c.Raw(near, echo, services.Blocking()))
		must(t, c.Raw(far, echo))
		must(t, c.Raw(broken, func(_ *engine.Session, p codec.Packet) error {
			if len(p.Body) > 0 {
				return services.Errorf(engine.CodeConflict, "taken")
			}
			return errors.New("a secret")
		}))
		if err := c.Raw(near, echo); err == nil {
			t.Error("a second one on a handle was taken")
		}
		if err := c.Raw(services.Handle(7, 3), nil); err == nil {
			t.Error("one without a function was taken")
		}
		for _, o := range []services.Option{services.Internal(), services.OneWay(), services.Timeout(time.Second)} {
			if err := c.Raw(services.Handle(7, 3), echo, o); err == nil {
				t.Error("an option without a meaning was taken")
			}
		}
	})
	if d := r.c.Dispatch(); d[near] != engine.Ordered || len(d) != 1 {
		t.Errorf("on workers: %v, want 7/15 alone", d)
	}
	if _, err := services.Inline[services.None, services.None](r.c.Context(nil), near, services.None{}); !errors.Is(err, services.ErrTypes) {
		t.Errorf("a call in line: %v, want ErrTypes", err)
	}
	w := r.wire()
	var out []byte
	send := func(h uint32, body string) {
		main, sub := codec.Split(h)
		out = codec.Packet{Main: main, Sub: sub, Body: []byte(body)}.Append(out)
	}
	send(near, "a")
	send(broken, "x")
	send(broken, "")
	send(services.Handle(7, 9), "") // nobody's, beside them
	send(services.Handle(9, 1), "") // and further away
	send(far, "b")
	if _, err := w.Write(out); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{
		"7/15 a",
		"0/3 \x00\x09\x00\x07\x00\x02taken",
		"0/3 \x00\x06\x00\x07\x00\x02internal error",
		"0/3 \x00\x02\x00\x07\x00\x09unknown handle",
		"0/3 \x00\x02\x00\x09\x00\x01unknown handle",
		"8/1 b",
	} {
		p, err := w.r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if got := handleName(p) + " " + string(p.Body); got != want {
			t.Errorf("answer %d: %q, want %q", i, got, want)
		}
	}
	if st := r.c.Stats(); st.Failed != 2 || st.Internal != 1 || st.Unknown != 2 {
		t.Errorf("counted: %+v", st)
	}
}

func handleName(p codec.Packet) string { return fmt.Sprintf("%d/%d", p.Main, p.Sub) }
