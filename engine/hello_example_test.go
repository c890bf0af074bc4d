package engine_test

import (
	"context"
	"fmt"
	"net"

	"millrace/codec"
	"millrace/engine"
)

type echo struct{}

func (echo) OnSocketAccept(*engine.Session)                 {}
func (echo) OnSocketRead(s *engine.Session, p codec.Packet) { s.Reply(p, p.Body) }
func (echo) OnSocketClose(*engine.Session, engine.Reason)   {}

// The hello world of the README, with a client.
func Example_hello() {
	srv, err := engine.New(engine.Config{Addrs: []string{"tcp://127.0.0.1:0"}}, echo{})
	if err == nil {
		err = srv.Start(context.Background())
	}
	if err != nil {
		panic(err)
	}
	defer srv.Stop(context.Background())

	conn, err := net.Dial("tcp", srv.Addrs()[0].String())
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	conn.Write(codec.Packet{Main: 1, Sub: 1, Body: []byte("hello")}.Append(nil))
	p, err := codec.NewReader(conn, nil).Next()
	fmt.Printf("%d/%d %s %v\n", p.Main, p.Sub, p.Body, err)
	// Output: 1/1 hello <nil>
}
