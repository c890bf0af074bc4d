package enginetest

import (
	"encoding/binary"
	"time"

	"millrace/codec"
	"millrace/engine"
)

// counting answers each frame with how many it has had.
type counting struct{}

func (counting) OnSocketAccept(s *engine.Session) { s.SetValue(new(int)) }
func (counting) OnSocketRead(s *engine.Session, p codec.Packet) {
	n := s.Value().(*int)
	*n++
	_ = s.Reply(p, number(*n, 8+len(p.Body)%500))
	if *n%7 == 0 {
		_ = s.Push(2, 1, number(*n, 100))
	}
}
func (counting) OnSocketClose(*engine.Session, engine.Reason) {}

// resumeWorld has clients whose connections break and that come back: nothing is lost,
// doubled or run twice.
func resumeWorld(w *World) {
	cfg := engine.Config{Dispatch: dispatch(w), Timeouts: engine.Timeouts{Resume: 20 * time.Second}, Limits: engine.Limits{ResumeBytes: 64 << 10}}
	way := func() Way { return Way{} }
	if w.Chance(3) { // through any door, and back through another
		cfg.Addrs, cfg.TLS, cfg.Deflate = doors, w.TLS(), w.Chance(2)
		way = func() Way { return anyDoor(w) }
	}
	srv := w.Server(cfg, counting{})
	type peer struct {
		*Client
		asked, seen, from int // frames since the session began
	}
	var peers []*peer
	for range 1 + w.Pick(3) {
		peers = append(peers, &peer{Client: w.DialResumeBy(srv, way())})
	}
	check := func(p *peer) {
		for ; p.from < len(p.frames); p.from++ {
			f := p.frames[p.from]
			if f.Main != 1 {
				continue
			}
			p.seen++
			if n := int(binary.BigEndian.Uint32(f.Body)); n != p.seen {
				w.Fatalf("client %d: got answer %d, want %d", p.conn.ID(), n, p.seen)
			}
		}
		if p.seen > p.asked {
			w.Fatalf("client %d: %d answers to %d questions", p.conn.ID(), p.seen, p.asked)
		}
	}
	for range 8 + w.Pick(30) {
		p := peers[w.Pick(len(peers))]
		switch w.Pick(6) {
		case 3, 4:
			for range 1 + w.Pick(3) {
				switch w.Pick(4) {
				case 1: // the new connection takes over in the middle of a frame
					p.transmit([]byte{0, 0, 0, 50, 0, 1})
				case 2:
					p.Vanish()
				case 3:
					p.Reset()
				}
				w.Advance(w.Between(0, 3*time.Second))
				check(p)
				for tries := 0; !p.ReconnectBy(way()) && p.resume.lost == 0; tries++ {
					if tries > 5 {
						w.Fatalf("client %d: no way back", p.conn.ID())
					}
				}
				if p.resume.lost > 0 {
					w.Fatalf("client %d: its session did not go on", p.conn.ID())
				}
			}
		default:
			for range 1 + w.Pick(6) {
				p.asked++
				p.Send(1, 1, number(p.asked, size(w, 5000)))
			}
		}
		w.Advance(w.Between(0, 5*time.Millisecond))
		check(p)
	}
	for _, p := range peers {
		w.Until(func() bool { check(p); return p.seen == p.asked })
	}
}
