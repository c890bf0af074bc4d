package engine

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"millrace/codec"
)

// bareFramings are framings without handles: what is sent, and what an echo of it is.
func bareFramings() []struct {
	name       string
	framer     codec.Framer
	sent, want string
} {
	long := strings.Repeat("z", 3000)
	return []struct {
		name       string
		framer     codec.Framer
		sent, want string
	}{
		{"line", must(codec.Line(3001)), "one\r\ntwo\n\n\r\r\n" + long + "\r\nlast\ncut", "one\ntwo\n\n\r\n" + long + "\nlast\n"},
		{"delimiter", must(codec.Delimiter([]byte("aab"), 3000)), "xaabaaab" + long + "aabaabcut", "xaabaaab" + long + "aabaab"},
		{"fixed", must(codec.Fixed(7, 0)), "1234567abcdefg1234", "1234567abcdefg"},
		{"splitter", must(codec.Splitter(func(b []byte, _ int) (int, int, error) {
			if i := bytes.IndexByte(b, ';'); i >= 0 {
				return i + 1, 0, nil
			}
			return 0, 1, nil
		}, 0)), "a;bc;" + long + ";cut", "a;bc;" + long + ";"},
	}
}

// The echo of each frame comes back, however the stream is cut, behind every door; the
// frame that the FIN cuts is dropped.
func TestFramesWithoutHandlesAreEchoed(t *testing.T) {
	for _, f := range bareFramings() {
		for _, d := range []Dispatch{Inline, Ordered} {
			t.Run(f.name+" "+d.String(), func(t *testing.T) {
				srv := serve(t, Config{Framer: f.framer, Dispatch: d, Addrs: []string{"tcp://127.0.0.1:0", "tls://127.0.0.1:0", "ws://127.0.0.1:0"}, Doors: Doors{TLS: serverTLS()}}, &funcs{read: echo})
				eachDoor(t, srv, func(t *testing.T, url, scheme string) {
					for _, piece := range []int{1, 7, 1000, len(f.sent)} {
						c := dialDoor(t, url, scheme, "")
						c.SetDeadline(time.Now().Add(30 * time.Second))
						go func() {
							for b := []byte(f.sent); len(b) > 0; {
								n := min(piece, len(b))
								if _, err := c.Write(b[:n]); err != nil {
									return
								}
								b = b[n:]
							}
							if h, ok := c.(interface{ CloseWrite() error }); ok {
								h.CloseWrite()
							}
						}()
						got := make([]byte, len(f.want))
						if n, err := io.ReadFull(c, got); err != nil || string(got) != f.want {
							t.Fatalf("in pieces of %d: got %q, %v, want %q", piece, got[:n], err, f.want)
						}
						if _, ok := c.(interface{ CloseWrite() error }); ok {
							if more, err := io.ReadAll(c); len(more) > 0 || err != nil {
								t.Errorf("behind the last frame: got %q, %v, want the end", more, err)
							}
						}
						c.Close()
					}
				})
				for end := time.Now().Add(20 * time.Second); srv.budget.Used() > 0; time.Sleep(5 * time.Millisecond) {
					if time.Now().After(end) {
						t.Fatalf("%d bytes are still counted in the memory budget", srv.budget.Used())
					}
				}
			})
		}
	}
}

// A varint's frames have handles, and with them PING, ERROR and the rest.
func TestVarintFramesHaveSystemFrames(t *testing.T) {
	f := must(codec.Varint(100))
	srv := serve(t, Config{Addrs: []string{"tcp://127.0.0.1:0"}, Framer: f, MaxFrame: 100, Dispatch: Inline}, &funcs{read: func(s *Session, p codec.Packet) {
		switch p.Sub {
		case 1:
			s.Reply(p, p.Body)
		case 2:
			s.Broadcast(1, 2, p.Body)
		default:
			s.ReplyError(p, CodeUnknownHandle, "no")
		}
	}})
	c := dialDoor(t, srv.URLs()[0], "tcp", "")
	c.SetDeadline(time.Now().Add(20 * time.Second))
	io.WriteString(c, "\x85\x80\x80\x80\x00\x00\x01\x00\x01x\x04\x00\x01\x00\x02\x04\x00\x01\x00\x09\x05\x00\x00\x00\x01p\xff\xff\xff\xff\xff\x01")
	r := codec.NewFramerReader(c, f)
	seen := map[string]bool{}
	for {
		p, err := r.Next()
		if err != nil {
			if err != io.EOF {
				t.Error(err)
			}
			break
		}
		key := string([]byte{byte('0' + p.Main), '/', byte('0' + p.Sub), ' '}) + string(p.Body[:min(len(p.Body), 6)])
		seen[key] = true
	}
	for _, want := range []string{"1/1 x", "1/2 ", "0/2 p", "0/3 \x00\x02\x00\x01\x00\x09", "0/3 \x00\x01\x00\x00\x00\x00"} {
		if !seen[want] {
			t.Errorf("no %q; got %v", want, seen)
		}
	}
}

// MaxFrame bytes in front of the end are allowed and one more is not, nor is a stream
// without an end; nothing is held of it.
func TestTheLongestLine(t *testing.T) {
	srv := serve(t, Config{Addrs: []string{"tcp://127.0.0.1:0"}, Framer: must(codec.Line(100)), MaxFrame: 100}, &funcs{read: echo})
	for _, c := range []struct{ sent, want string }{
		{strings.Repeat("x", 100) + "\n", strings.Repeat("x", 100) + "\n"},
		{strings.Repeat("x", 99) + "\r\n", strings.Repeat("x", 99) + "\n"},
		{"ok\n" + strings.Repeat("x", 101) + "\n", "ok\n"},
		{"ok\n" + strings.Repeat("x", 101), "ok\n"},
		{strings.Repeat("x", 100) + "\r\n", ""},
	} {
		conn := dialDoor(t, srv.URLs()[0], "tcp", "")
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		io.WriteString(conn, c.sent)
		if len(c.want) == len(c.sent) || strings.HasSuffix(c.sent, "x\r\n") && c.want != "" {
			conn.(interface{ CloseWrite() error }).CloseWrite()
		}
		if got, err := io.ReadAll(conn); err != nil || string(got) != c.want {
			t.Errorf("%.10q of %d: got %.10q of %d, %v, want %d bytes and the end", c.sent, len(c.sent), got, len(got), err, len(c.want))
		}
	}
}

// What a framing can't be put together with is refused by name.
func TestFramingsThatCannotBe(t *testing.T) {
	for _, c := range []struct {
		cfg  Config
		want string
	}{
		{Config{Addrs: []string{"auto://127.0.0.1:0"}, Framer: must(codec.Line(0))}, "Addrs"},
		{Config{Addrs: []string{"tcp://127.0.0.1:0"}, Framer: must(codec.Line(0)), Layout: codec.Layout{Seq: true}}, "Framer"},
		{Config{Addrs: []string{"tcp://127.0.0.1:0"}, Framer: must(codec.Line(0)), Heartbeat: time.Second}, "Heartbeat"},
	} {
		var ce *ConfigError
		if _, err := New(c.cfg, &funcs{}); !errors.As(err, &ce) || ce.Field != c.want {
			t.Errorf("got %v, want a fault of %s", err, c.want)
		}
	}
}

// What the framing can't write is an error of the sender's, and nothing is sent.
func TestPacketsThatAFramingCannotWrite(t *testing.T) {
	errs := make(chan error, 8)
	srv := serve(t, Config{Addrs: []string{"tcp://127.0.0.1:0"}, Framer: must(codec.Line(10)), Dispatch: Inline}, &funcs{read: func(s *Session, p codec.Packet) {
		for _, body := range []string{"a\nb", "12345678901"} {
			errs <- s.Reply(p, []byte(body))
			errs <- s.Broadcast(0, 0, []byte(body))
		}
		errs <- s.Send(1, 1, nil)
		s.Reply(p, []byte("fine"))
	}})
	c := dialDoor(t, srv.URLs()[0], "tcp", "")
	c.SetDeadline(time.Now().Add(20 * time.Second))
	io.WriteString(c, "go\n")
	got := make([]byte, 5)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "fine\n" {
		t.Errorf("got %q, %v", got, err)
	}
	for _, want := range []error{codec.ErrBadBody, codec.ErrBadBody, ErrFrameTooLarge, ErrFrameTooLarge, codec.ErrBadHandle} {
		if err := <-errs; !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
}
