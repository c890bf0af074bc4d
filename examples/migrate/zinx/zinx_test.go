package zinx

import (
	"context"
	"net"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/aceld/zinx/zconf"
	"github.com/aceld/zinx/ziface"
	"github.com/aceld/zinx/zlog"
	"github.com/aceld/zinx/znet"

	"millrace/engine"
	"millrace/services"
)

const patience = time.Minute

func TestMain(m *testing.M) {
	zconf.GlobalObject.LogIsolationLevel = zlog.LogError + 1
	zconf.GlobalObject.InitLogConfig()
	os.Exit(m.Run())
}

// heard gives what messages of one ID brought to a channel.
type heard struct {
	znet.BaseRouter
	c chan string
}

func (h *heard) Handle(req ziface.IRequest) { h.c <- string(req.GetData()) }

// dial starts zinx's own client.
func dial(t *testing.T, addr string) (conn ziface.IConnection, ponged, shouted chan string) {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	n, _ := strconv.Atoi(port)
	c := znet.NewClient(host, n)
	ponged, shouted = make(chan string, 100), make(chan string, 100)
	c.AddRouter(1, &heard{c: ponged})
	c.AddRouter(2, &heard{c: shouted})
	up := make(chan ziface.IConnection, 1)
	c.SetOnConnStart(func(conn ziface.IConnection) { up <- conn })
	c.Start()
	t.Cleanup(c.Stop)
	select {
	case conn = <-up:
	case <-time.After(patience):
		t.Fatal("zinx's client does not connect")
	}
	return conn, ponged, shouted
}

// try is one test for both servers: an echo, and what all are told, by the same clients.
func try(t *testing.T, addr string) {
	t.Helper()
	ann, ponged, _ := dial(t, addr)
	ben, benPonged, heard := dial(t, addr)
	want := func(c chan string, text string) {
		t.Helper()
		select {
		case got := <-c:
			if got != text {
				t.Errorf("got %q, want %q", got, text)
			}
		case <-time.After(patience):
			t.Fatalf("%q did not come", text)
		}
	}
	for _, text := range []string{"one", "", "three"} {
		if err := ann.SendMsg(1, []byte(text)); err != nil {
			t.Fatal(err)
		}
		want(ponged, text)
	}
	if err := ben.SendMsg(1, []byte("here")); err != nil { // an answer: the server has this connection
		t.Fatal(err)
	}
	want(benPonged, "here")
	if err := ann.SendMsg(2, []byte("all")); err != nil {
		t.Fatal(err)
	}
	want(heard, "all")
}

func TestTheirs(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().(*net.TCPAddr)
	l.Close()
	zconf.GlobalObject.Host, zconf.GlobalObject.TCPPort, zconf.GlobalObject.Mode = "127.0.0.1", addr.Port, zconf.ServerModeTcp
	s := znet.NewServer()
	theirs(s)
	s.Start()
	t.Cleanup(s.Stop)
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) { // it does not say when it listens
		c, err := net.Dial("tcp", addr.String())
		if err == nil {
			c.Close()
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	try(t, addr.String())
}

func TestOurs(t *testing.T) {
	c, err := services.NewController(services.ControllerConfig{})
	if err == nil {
		err = register(c)
	}
	if err != nil {
		t.Fatal(err)
	}
	srv, err := engine.New(config("tcp://127.0.0.1:0"), c)
	if err == nil {
		err = srv.Start(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { srv.Stop(context.Background()) })
	try(t, srv.Addrs()[0].String())
}
