package engine

import (
	"net"
	"slices"
	"testing"
	"time"

	"millrace/codec"
)

// Who joined with a function is told once when its session ends, by close or FIN, and not
// when it left before.
func TestJoinWithTellsOfTheEnd(t *testing.T) {
	told := make(chan string, 16)
	srv := serve(t, Config{Timeouts: Timeouts{Linger: 50 * time.Millisecond}}, &funcs{read: func(s *Session, p codec.Packet) {
		g := s.Server().Group("g")
		name := string(p.Body)
		switch p.Sub {
		case 1:
			for range 2 { // the second changes nothing
				if _, err := g.JoinWith(s, func(*Session) { told <- name }); err != nil {
					t.Error(err)
				}
			}
		case 2:
			g.Leave(s)
		case 3:
			g.JoinWith(s, func(*Session) { told <- name; panic("of the test") })
		case 4:
			s.Close()
			return
		}
		s.Reply(p, nil)
	}})
	for _, ends := range []string{"close", "fin", "leave", "panic", "server"} {
		c := dial(t, srv)
		sub := uint16(1)
		if ends == "panic" {
			sub = 3
		}
		c.send(1, sub, ends)
		c.expect(1, sub, "")
		switch ends {
		case "leave":
			c.send(1, 2, "")
			c.expect(1, 2, "")
			c.Close()
		case "fin":
			if err := c.Conn.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
		case "server":
			c.send(1, 4, "")
		default:
			c.Close()
		}
	}
	var got []string
	for range 4 {
		select {
		case name := <-told:
			got = append(got, name)
		case <-time.After(time.Minute):
			t.Fatalf("told of %q only", got)
		}
	}
	slices.Sort(got)
	if want := []string{"close", "fin", "panic", "server"}; !slices.Equal(got, want) {
		t.Errorf("told of %q, want %q", got, want)
	}
	waitFor(t, "the sessions to end", func() bool { return srv.table.count() == 0 })
	if n := len(told); n != 0 || srv.Stats().Panics != 1 {
		t.Errorf("told %d times more; %d panics", n, srv.Stats().Panics)
	}
}
