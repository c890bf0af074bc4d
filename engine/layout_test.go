package engine

import (
	"errors"
	"testing"
	"time"

	"millrace/codec"
)

// What the layout can't say is refused wherever it is given, and nothing is sent.
func TestPacketsThatTheLayoutCannotSay(t *testing.T) {
	layout := codec.Layout{Command: codec.MainSub8}
	d := newDesk(t, Config{Layout: layout, Dispatch: Inline, Timeouts: Timeouts{FirstFrameTimeout: Off}}, plain{})
	s, w := d.open(1 << 20)
	d.turns()
	g := d.Group("all")
	if _, err := g.Join(s); err != nil {
		t.Fatal(err)
	}
	group := func(_ int, err error) error { return err }
	for _, h := range [][2]uint16{{300, 1}, {256, 0}, {1, 256}, {65535, 65535}} {
		for how, err := range map[string]error{
			"Send":              s.Send(h[0], h[1], nil),
			"Push":              s.Push(h[0], h[1], nil),
			"SendPacket":        s.SendPacket(codec.Packet{Main: h[0], Sub: h[1]}),
			"Reply":             s.Reply(codec.Packet{Main: h[0], Sub: h[1]}, nil),
			"Broadcast":         s.Broadcast(h[0], h[1], nil),
			"SendGroup":         group(s.SendGroup(g, h[0], h[1], nil)),
			"Server.Send":       d.Send(s.ID(), h[0], h[1], nil),
			"Server.Broadcast":  d.Server.Broadcast(h[0], h[1], nil),
			"Group.Send":        group(g.Send(h[0], h[1], nil)),
			"Send, large too":   s.Send(h[0], h[1], make([]byte, 1<<20)),
			"SendPacket, a Seq": s.SendPacket(codec.Packet{Main: h[0], Sub: h[1], Seq: 1}),
		} {
			if !errors.Is(err, codec.ErrBadHandle) {
				t.Errorf("%s of %d/%d: got %v, want codec.ErrBadHandle", how, h[0], h[1], err)
			}
		}
	}
	for how, err := range map[string]error{
		"SendPacket": s.SendPacket(codec.Packet{Main: 1, Sub: 1, Seq: 1}),
		"Reply":      s.Reply(codec.Packet{Main: 1, Sub: 1, Seq: 1 << 31}, nil),
	} {
		if !errors.Is(err, codec.ErrBadSeq) {
			t.Errorf("%s with a Seq: got %v, want codec.ErrBadSeq", how, err)
		}
	}
	d.turns()
	if len(w.got) != 0 {
		t.Fatalf("refused packets were sent: %x", w.got)
	}
	if err := s.Send(255, 255, []byte("x")); err != nil {
		t.Fatal(err)
	}
	d.turns()
	if want := "\x00\x00\x00\x03\xff\xffx"; string(w.got) != want {
		t.Fatalf("got %x, want %x", w.got, want)
	}
}

// An ERROR goes out however small the largest frame is, and says its code in full.
func TestErrorFitsTheSmallestFrame(t *testing.T) {
	for _, layout := range []codec.Layout{{}, {LengthWidth: 2}, {Command: codec.MainSub8, Seq: true}} {
		least := 4
		if layout.Seq {
			least = 6
		}
		d := newDesk(t, Config{Layout: layout, MaxFrame: least, Dispatch: Inline, Timeouts: Timeouts{FirstFrameTimeout: Off, Linger: time.Second}}, plain{})
		s, w := d.open(1 << 20)
		if err := s.ReplyError(codec.Packet{Main: 1, Sub: 2}, CodeUnknownHandle, "a text"); err != nil {
			t.Fatal(err)
		}
		d.turns()
		c := must(codec.New(layout, 100))
		p, _, _, err := c.Decode(w.got)
		if err != nil || p.Main != SystemMain || p.Sub != SubError || string(p.Body) != "\x00\x02\x00\x01\x00\x02" {
			t.Fatalf("%+v: got %d/%d %x, %v", layout, p.Main, p.Sub, p.Body, err)
		}
		if err := s.Send(1, 1, []byte("x")); !errors.Is(err, ErrFrameTooLarge) {
			t.Fatalf("%+v: a body got %v, want ErrFrameTooLarge", layout, err)
		}
	}
}
