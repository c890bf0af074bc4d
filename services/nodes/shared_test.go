package nodes_test

import (
	"errors"
	"net"
	"testing"
	"time"

	"millrace/codec"
	"millrace/engine"
	"millrace/services"
	"millrace/services/cluster"
	"millrace/services/nodes"
)

// manager returns a manager of many processes with a node, and a server that answers 1/5 by fn.
func manager(t *testing.T, node *nodes.Node, fn func(ctx *services.Context, _, _ *services.None) error) *services.Manager {
	t.Helper()
	m, err := services.New(services.Config{
		Mode: services.ManyProcesses, Shared: nodes.Shared(node), Logger: quiet,
		Server: &engine.Config{Addrs: []string{"tcp://127.0.0.1:0"}, Loops: 1},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := services.Register(m.Controller(), services.Handle(1, 5), services.Stages[services.None, services.None]{Handle: fn}, services.Blocking()); err != nil {
		t.Fatal(err)
	}
	return m
}

// A manager of many processes starts the node with the cache, and its server's sessions are
// the node's.
func TestAManagerStartsItsNode(t *testing.T) {
	url := servers(t)
	other := start(t, url, "other")
	cache, err := cluster.New(cluster.Config{URL: url, Lease: time.Minute, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	node, err := nodes.New(nodes.Config{Name: "managed", Cache: cache, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	m := manager(t, node, func(ctx *services.Context, _ *services.None, _ *services.None) error {
		_, err := node.Join(ctx, ctx.Session(), "tea")
		return err
	})
	if err := m.Start(background); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := m.Stop(background); err != nil {
			t.Error(err)
		}
		other.knows("other=up")
	}()
	other.knows("managed=up other=up")
	if m.Service(nodes.ServiceName) != services.Service(node) || m.Healthy() != nil {
		t.Errorf("the manager has %v, health %v", m.Service(nodes.ServiceName), m.Healthy())
	}
	conn, err := net.Dial("tcp", m.TCP().Addrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := &client{t: t, Conn: conn, r: codec.NewReader(conn, nil)}
	if _, err := conn.Write(codec.Packet{Main: 1, Sub: 5}.Append(nil)); err != nil {
		t.Fatal(err)
	}
	c.want("1/5 ")
	if sent, err := other.SendGroup(background, nil, "tea", 1, 8, []byte("hi")); sent != 1 || err != nil {
		t.Errorf("sent %d, %v", sent, err)
	}
	c.want("1/8 hi")
}

// A node without a Cache is started by its manager too, and works as a cluster of one.
func TestAManagerStartsALoneNode(t *testing.T) {
	node, err := nodes.New(nodes.Config{Name: "lone", Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	m := manager(t, node, func(ctx *services.Context, _ *services.None, _ *services.None) error {
		_, bound := node.Bind(ctx, ctx.Session(), codec.Packet{Main: 1, Sub: 5}, "ann")
		_, stored := ctx.Cache().Set(ctx, "k", []byte("v"), 0)
		return errors.Join(bound, stored)
	})
	if err := m.Start(background); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := m.Stop(background); err != nil {
			t.Error(err)
		}
	}()
	conn, err := net.Dial("tcp", m.TCP().Addrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write(codec.Packet{Main: 1, Sub: 5}.Append(nil)); err != nil {
		t.Fatal(err)
	}
	if p, err := codec.NewReader(conn, nil).Next(); err != nil || p.Main != 1 || p.Sub != 5 {
		t.Fatalf("got %d/%d %q, %v", p.Main, p.Sub, p.Body, err)
	}
	if sent, err := node.SendUser(background, "ann", 1, 6, nil); !sent || err != nil || m.Healthy() != nil {
		t.Errorf("got sent %v, %v, health %v", sent, err, m.Healthy())
	}
}
