package engine

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"millrace/codec"
)

// changing are framings by the command, of five bytes, that changes to them.
func changing() map[string]codec.Framer {
	return map[string]codec.Framer{
		"=line": must(codec.Line(1 << 20)), "=deli": must(codec.Delimiter([]byte("||"), 1<<20)),
		"=fixe": must(codec.Fixed(5, 0)), "=vari": must(codec.Varint(1 << 20)), "=leng": nil,
	}
}

// walk changes from each framing to each other one.
var walk = strings.Fields("=line =deli =line =fixe =line =vari =line =leng =deli =fixe =deli =vari =deli =leng =fixe =vari =fixe =leng =vari =leng =line =line =fixe =fixe =line")

// talk is a client's side of a session whose framing changes.
type talk struct {
	t       testing.TB
	framers map[string]codec.Framer
	sent    []byte   // what it sends
	want    []string // the bodies of the answers, each behind the command of its framing
	at      string   // the framing that it sends in
}

func (k *talk) codecOf(at string) *codec.Codec {
	if f := k.framers[at]; f != nil {
		return must(codec.Framed(f, 1<<20))
	}
	return must(codec.New(codec.Layout{}, 1<<20))
}

func (k *talk) say(body, answer string) {
	p := codec.Packet{Main: 1, Sub: 1, Body: []byte(body)}
	if k.at != "=vari" && k.at != "=leng" {
		p.Main, p.Sub = 0, 0
	}
	b, err := k.codecOf(k.at).Append(nil, p)
	if err != nil {
		k.t.Fatal(err)
	}
	k.sent = append(k.sent, b...)
	k.want = append(k.want, k.at+answer)
}

// heard checks a message: whole frames of the framing whose turn it is, and of no other.
// Bodies in beside may stand anywhere.
func (k *talk) heard(m []byte, beside string) {
	at := k.want[0][:5]
	for c := k.codecOf(at); len(m) > 0; {
		p, n, missing, err := c.Decode(m)
		if err != nil || n == 0 || missing > 0 {
			k.t.Fatalf("%d answers are missing; a message ends with %.40q, which is no frame of %q: %v", len(k.want), m, at, err)
		}
		m = m[n:]
		if len(k.want) > 0 && k.want[0] == at+string(p.Body) {
			k.want = k.want[1:]
			if len(k.want) > 0 && k.want[0][:5] != at && len(m) > 0 {
				k.t.Fatalf("a message has %.40q behind the last frame of %q", m, at)
			}
		} else if beside == "" || string(p.Body) != beside {
			k.t.Fatalf("%d answers are missing; read %.40q in %q", len(k.want), p.Body, at)
		}
	}
}

// dialMessages opens a WebSocket, whose messages are compressed if the server does that.
func dialMessages(t testing.TB, ctx context.Context, url string) *websocket.Conn {
	hc := &http.Client{Transport: &http.Transport{TLSClientConfig: clientTLS, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := net.Dial(network, addr)
		if err == nil {
			c.(*net.TCPConn).SetReadBuffer(64 << 10)
		}
		return c, err
	}}}
	c, _, err := websocket.Dial(ctx, url, &websocket.DialOptions{HTTPClient: hc, CompressionMode: websocket.CompressionNoContextTakeover})
	if err != nil {
		t.Fatal(err)
	}
	c.SetReadLimit(-1)
	t.Cleanup(func() { c.CloseNow(); hc.CloseIdleConnections() })
	return c
}

// changer serves the walk on WebSockets: to a command it changes, and says so in the old
// framing; "big" gets 300 KB, "end" tells done.
func changer(t testing.TB, d Dispatch, deflate bool, done chan struct{}, h *funcs) *Server {
	framers := changing()
	h.read = func(s *Session, p codec.Packet) {
		body := string(p.Body)
		f, command := framers[body]
		switch {
		case command:
			if err := s.SetFramer(f, false, codec.Packet{Main: p.Main, Sub: p.Sub, Body: []byte("moved")}); err != nil {
				t.Error(err)
			}
		case body == "big":
			s.Reply(p, bytes.Repeat([]byte("x"), 300_000))
		case body == "end":
			s.Reply(p, p.Body)
			close(done)
		default:
			s.Reply(p, p.Body)
		}
	}
	cfg := Config{Dispatch: d, MaxFrame: 1 << 20, Addrs: []string{"ws://127.0.0.1:0", "wss://127.0.0.1:0"}, Limits: Limits{MaxOutbound: 64 << 20}, Socket: Socket{SocketSendBuffer: 64 << 10},
		Doors: Doors{TLS: serverTLS(), Deflate: deflate}, Framings: map[string]Framing{}}
	for _, a := range cfg.Addrs {
		cfg.Framings[a] = Framing{Framer: framers["=line"], Switches: true}
	}
	return serve(t, cfg, h)
}

// What was sent in the old framing is in messages of the old framing's, and what follows in
// messages of the new one's, whichever the two are, also for broadcasts and what other
// goroutines send meanwhile.
func TestMessagesWhileTheFramingChanges(t *testing.T) {
	for _, d := range []Dispatch{Ordered, Inline} {
		for _, deflate := range []bool{false, true} {
			opened := make(chan *Session, 10)
			srv := changer(t, d, deflate, nil, &funcs{accept: func(s *Session) { opened <- s }})
			for _, url := range srv.URLs() {
				for _, cut := range []int{1, 7, 1 << 20} {
					t.Run(fmt.Sprint(d, deflate, url[:3], cut), func(t *testing.T) {
						ctx := within(t, 60*time.Second)
						c := dialMessages(t, ctx, url)
						k := &talk{t: t, framers: changing(), at: "=line"}
						for _, to := range walk {
							k.say("hello", "hello")
							k.say(to, "moved")
							k.at = to
							k.say("12345", "12345")
						}
						s, stop, stopped := <-opened, make(chan struct{}), make(chan struct{})
						go func() {
							defer close(stopped)
							for i := 0; ; i++ {
								select {
								case <-stop:
									return
								default:
								}
								err := error(nil)
								switch i % 8 {
								case 0:
									err = srv.Broadcast(0, 0, []byte("aside"))
								case 1, 2:
									err = s.PushKeyed(1, 0, 0, []byte("aside"))
								default:
									err = s.Push(0, 0, []byte("aside"))
								}
								if err != nil || i%64 == 0 {
									time.Sleep(100 * time.Microsecond) // others are to have their turn
								}
							}
						}()
						defer func() { close(stop); <-stopped }()
						go func() {
							for b := k.sent; len(b) > 0; b = b[min(cut, len(b)):] {
								if c.Write(ctx, websocket.MessageBinary, b[:min(cut, len(b))]) != nil {
									return
								}
							}
						}()
						for len(k.want) > 0 {
							_, m, err := c.Read(ctx)
							if err != nil {
								t.Fatalf("%d answers are missing: %v", len(k.want), err)
							}
							k.heard(m, "aside")
						}
					})
				}
			}
		}
	}
}

// The same where the kernel has taken a part only, and several changes wait to be written.
func TestUnsentMessagesWhileTheFramingChanges(t *testing.T) {
	for _, deflate := range []bool{false, true} {
		for i := range 2 {
			done := make(chan struct{})
			srv := changer(t, Ordered, deflate, done, &funcs{})
			ctx := within(t, 60*time.Second)
			c := dialMessages(t, ctx, srv.URLs()[i])
			k := &talk{t: t, framers: changing(), at: "=line"}
			big := strings.Repeat("x", 300_000)
			for range 4 {
				for _, to := range walk {
					if k.at == "=vari" || k.at == "=leng" {
						k.say("big", big)
					}
					k.say(to, "moved")
					k.at = to
				}
			}
			k.say("end", "end")
			if err := c.Write(ctx, websocket.MessageBinary, k.sent); err != nil {
				t.Fatal(err)
			}
			select {
			case <-done:
			case <-ctx.Done():
				t.Fatal("the server has not answered all")
			}
			for len(k.want) > 0 {
				_, m, err := c.Read(ctx)
				if err != nil {
					t.Fatalf("%s: %d answers are missing: %v", srv.URLs()[i], len(k.want), err)
				}
				k.heard(m, "")
			}
			n := uint64(0)
			for _, l := range srv.Stats().Loops {
				n += l.Blocked
			}
			if n == 0 && !deflate {
				t.Error("the kernel has taken everything at once")
			}
		}
	}
}

// What a connection is told that is refused is a message in the framing of its address, and
// so is what it is sent while it is accepted.
func TestMessagesInFrontOfTheSession(t *testing.T) {
	addr := "ws://127.0.0.1:0"
	v := must(codec.Varint(0))
	for _, d := range []Dispatch{Ordered, Inline} {
		srv := serve(t, Config{Dispatch: d, Addrs: []string{addr}, Framer: must(codec.Fixed(5, 0)), Framings: map[string]Framing{addr: {Framer: v}}, Limits: Limits{MaxConns: 1}},
			&funcs{accept: func(s *Session) { s.Send(1, 1, []byte("welcome")) }})
		ctx := within(t, 30*time.Second)
		for _, want := range []byte{1, SubError} {
			_, m, err := dialMessages(t, ctx, srv.URLs()[0]).Read(ctx)
			if p, n, _, bad := must(codec.Framed(v, 0)).Decode(m); err != nil || bad != nil || n != len(m) || byte(p.Sub) != want {
				t.Errorf("got %q, %v, %v, want one frame with Sub %d", m, err, bad, want)
			}
		}
	}
}

// Who is told that a member has gone may send to whom he likes, also where the framing of the
// member may change.
func TestWhoIsToldOfACloseMaySend(t *testing.T) {
	for name, f := range changing() {
		t.Run(name, func(t *testing.T) {
			addr, did := "tcp://127.0.0.1:0", make(chan string, 2)
			h := &funcs{}
			srv := serve(t, Config{Addrs: []string{addr}, Framings: map[string]Framing{addr: {Framer: f, Switches: true}}}, h)
			g := srv.Group("room")
			h.accept = func(s *Session) {
				g.JoinWith(s, func(s *Session) {
					s.Push(1, 1, []byte("still?"))
					g.Send(1, 1, []byte("aside"))
					srv.Broadcast(1, 1, []byte("aside"))
					did <- "told"
				})
				s.CloseWithError(codec.Packet{}, CodeConflict, "over", ReasonServerClosed)
				did <- "closed"
			}
			c := must(net.Dial("tcp", srv.Addrs()[0].String()))
			defer c.Close()
			for _, want := range []string{"told", "closed"} {
				select {
				case got := <-did:
					if got != want {
						t.Errorf("%s, want %s", got, want)
					}
				case <-time.After(20 * time.Second):
					t.Fatalf("not %s", want)
				}
			}
		})
	}
}
