package door

import (
	"context"
	"net"
	"testing"
	"time"

	"millrace/engine/internal/budget"
	"millrace/engine/internal/netio"
)

// standstill is a network of one loop on which nothing happens, and the Host above the doors.
type standstill struct {
	netio.Host
	netio.Loop
}

func (standstill) NewLoop(netio.Loop) netio.Turner { return nil }
func (standstill) Start(context.Context) error     { return nil }
func (standstill) Addrs() []net.Addr               { return nil }
func (standstill) Guard()                          {}
func (standstill) Stop(context.Context) error      { return nil }
func (standstill) Listener(net.Addr) int           { return 0 }

// comer is a connection that says nothing.
type comer struct {
	netio.Conn
	closed bool
}

func (*comer) LocalAddr() net.Addr    { return nil }
func (*comer) RemoteAddr() net.Addr   { return nil }
func (*comer) PauseReading(bool) bool { return true }
func (c *comer) Close()               { c.closed = true }

// Who says nothing gives up its place to who comes, once it has had its time, and never to who
// may not come.
func TestOneThatMayComeTakesAPlace(t *testing.T) {
	short, shed := false, 0
	h, err := New(Config{
		Addrs: []string{"ws://127.0.0.1:0"}, Budget: budget.New(1<<20, nil), Short: func(int) bool { return short }, MaxOpening: func() int { return 2 }, Shed: func() { shed++ },
	}, standstill{}, func([]string, netio.Host) Below { return standstill{} })
	if err != nil {
		t.Fatal(err)
	}
	l := h.NewLoop(standstill{}).(*loop)
	var all []*comer
	come := func() bool {
		c := &comer{}
		sink, no := h.Open(l, c, 10)
		if sink != nil {
			all = append(all, c)
		} else if !no.AtOnce {
			t.Errorf("refused with %+v", no)
		}
		return sink != nil
	}
	check := func(what string, came, want bool, gone, counted int) {
		t.Helper()
		closed := 0
		for _, c := range all {
			if c.closed {
				closed++
			}
		}
		if came != want || closed != gone || shed != counted || l.silent.Len() != 2 || len(l.opening) != 2 || h.st.front.Load() != 2 {
			t.Errorf("%s: came %v, %d closed, %d counted, %d of %d wait; want %v, %d, %d, 2 of 2", what, came, closed, shed, l.silent.Len(), len(l.opening), want, gone, counted)
		}
	}
	come()
	check("the second", come(), true, 0, 0)
	h.epoch = h.epoch.Add(time.Hour)
	check("before their time is up", come(), false, 0, 1)
	h.epoch = h.epoch.Add(-time.Hour - 2*YieldAfter)
	short = true
	check("where no more may come", come(), false, 0, 1)
	short = false
	check("then", come(), true, 1, 2)
	if !all[0].closed {
		t.Error("the one that was silent longest has kept its place")
	}
	all[1].heard(l)
	h.epoch = h.epoch.Add(-2 * YieldAfter)
	check("behind one that was heard", come(), true, 2, 3)
	if all[1].closed {
		t.Error("the one that was heard last has lost its place")
	}
}

// heard brings a byte.
func (c *comer) heard(l *loop) {
	for x := range l.opening {
		if x.Conn == netio.Conn(c) {
			x.Received([]byte("G"))
		}
	}
}
