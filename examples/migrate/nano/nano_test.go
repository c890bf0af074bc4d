package nano

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/lonng/nano"
	"github.com/lonng/nano/component"
	nanojson "github.com/lonng/nano/serialize/json"

	"millrace/codec"
	"millrace/engine"
	"millrace/services"
	"millrace/services/client"
)

const patience = time.Minute

// visitor is a client of either server.
type visitor interface {
	join() string  // and what it was answered
	say(string)    // to the room
	heard() string // what somebody said
}

// try is one test for both: two join, one speaks, both hear it.
func try(t *testing.T, dial func() visitor) {
	t.Helper()
	ann, ben := dial(), dial()
	for _, v := range []visitor{ann, ben} {
		if got := v.join(); got != "welcome" {
			t.Fatalf("joining is answered %q", got)
		}
	}
	ann.say("hello")
	for _, v := range []visitor{ann, ben} {
		if got := v.heard(); got != "hello" {
			t.Errorf("heard %q", got)
		}
	}
}

// theirVisitor speaks nano's protocol: packets of a type and a length, in which are messages.
type theirVisitor struct {
	t *testing.T
	net.Conn
	r *bufio.Reader
}

const (
	packetHandshake    = 1
	packetHandshakeAck = 2
	packetData         = 4

	messageRequest, messageNotify = 0 << 1, 1 << 1
)

func (v *theirVisitor) packet(kind byte, body string) {
	v.t.Helper()
	n := len(body)
	if _, err := v.Write(append([]byte{kind, byte(n >> 16), byte(n >> 8), byte(n)}, body...)); err != nil {
		v.t.Fatal(err)
	}
}

// read returns the body of the next packet of a type: others are heartbeats.
func (v *theirVisitor) read(want byte) string {
	v.t.Helper()
	for {
		head := make([]byte, 4)
		if _, err := io.ReadFull(v.r, head); err != nil {
			v.t.Fatal(err)
		}
		body := make([]byte, int(head[1])<<16|int(head[2])<<8|int(head[3]))
		if _, err := io.ReadFull(v.r, body); err != nil {
			v.t.Fatal(err)
		}
		if head[0] == want {
			return string(body)
		}
	}
}

// text is that of the JSON at the end of a message.
func (v *theirVisitor) text() string {
	v.t.Helper()
	m := v.read(packetData)
	var line Line
	if err := json.Unmarshal([]byte(m[strings.IndexByte(m, '{'):]), &line); err != nil {
		v.t.Fatal(err)
	}
	return line.Text
}

func (v *theirVisitor) join() string {
	route := "Room.Join"
	v.packet(packetData, string([]byte{messageRequest, 1, byte(len(route))})+route+"{}") // a message has a body
	return v.text()
}

func (v *theirVisitor) say(text string) {
	route := "Room.Say"
	v.packet(packetData, string([]byte{messageNotify, byte(len(route))})+route+fmt.Sprintf(`{"text":%q}`, text))
}

func (v *theirVisitor) heard() string { return v.text() }

func TestTheirs(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	all := &component.Components{}
	all.Register(&Room{group: nano.NewGroup("room")})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		nano.Listen(addr, nano.WithComponents(all), nano.WithSerializer(nanojson.NewSerializer()), nano.WithLogger(log.New(os.Stderr, "", 0)))
	}()
	try(t, func() visitor {
		v := &theirVisitor{t: t}
		for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) { // it does not say when it listens
			if v.Conn, err = net.Dial("tcp", addr); err == nil {
				break
			}
			if time.Now().After(end) {
				t.Fatal(err)
			}
		}
		t.Cleanup(func() { v.Close() })
		v.SetDeadline(time.Now().Add(patience))
		v.r = bufio.NewReader(v.Conn)
		v.packet(packetHandshake, `{"sys":{"type":"test","version":"1"},"user":{}}`)
		v.read(packetHandshake)
		v.packet(packetHandshakeAck, "")
		return v
	})
	nano.Shutdown()
	<-ended
}

// ourVisitor is one of ours.
type ourVisitor struct {
	t *testing.T
	*client.Client
	said chan string
}

func (v *ourVisitor) join() string {
	res, err := client.Call[services.None, Said](v.t.Context(), v.Client, client.Handle(1, 1), services.None{})
	if err != nil {
		v.t.Fatal(err)
	}
	return res.Text
}

func (v *ourVisitor) say(text string) {
	if err := v.Send(v.t.Context(), client.Handle(1, 2), fmt.Appendf(nil, `{"text":%q}`, text)); err != nil {
		v.t.Fatal(err)
	}
}

func (v *ourVisitor) heard() string {
	select {
	case text := <-v.said:
		return text
	case <-time.After(patience):
		v.t.Fatal("nothing was said")
		return ""
	}
}

func TestOurs(t *testing.T) {
	m, err := services.New(services.Config{Server: &engine.Config{Addrs: []string{"tcp://127.0.0.1:0"}}})
	if err == nil {
		err = rooms(m.Controller(), m.TCP)
	}
	if err == nil {
		err = m.Start(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Stop(context.Background()) })
	try(t, func() visitor {
		c, err := client.Dial(t.Context(), client.Config{Addrs: m.TCP().URLs()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		v := &ourVisitor{t, c, make(chan string, 8)}
		c.On(client.Handle(1, 3), func(p codec.Packet) {
			var s Said
			if err := json.Unmarshal(p.Body, &s); err != nil {
				t.Error(err)
			}
			v.said <- s.Text
		})
		return v
	})
}
