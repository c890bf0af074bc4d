package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"millrace/services/cluster"

	"millrace/internal/proctest"
)

// The nodes' part of the wire contract, against servers in processes of their own, with a
// NATS server in this one.

// nodeLease is the lease of the tests' nodes.
const nodeLease = 2 * time.Second

// natsServer starts a NATS server; dir is what --cluster-dir takes.
func natsServer(t *testing.T) (dir string, srv *cluster.Embedded) {
	t.Helper()
	dir = t.TempDir()
	srv, err := cluster.StartEmbedded(cluster.EmbeddedConfig{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { srv.Stop() })
	return dir, srv
}

func serveNode(t *testing.T, dir, name string) *process {
	t.Helper()
	return serve(t, "--cluster=embedded", "--cluster-dir="+dir, "--node="+name, "--cluster-lease="+nodeLease.String())
}

// ask is a request whose answer is an object of that handle, or an ERROR; pushes before it
// are left out.
func (p *peer) ask(main, sub uint16, body string) (obj map[string]any, code uint16) {
	p.t.Helper()
	p.send(main, sub, body)
	for {
		f := p.recv()
		if c, about, ok := parseErrorFrame(f); ok && about == uint32(main)<<16|uint32(sub) {
			return nil, c
		}
		if f.main == main && f.sub == sub {
			return p.parse(f), 0
		}
	}
}

// names are the nodes of 6/1, with their states.
func (p *peer) names() string {
	p.t.Helper()
	obj, code := p.ask(6, 1, "")
	if code != 0 {
		p.t.Fatalf("6/1: ERROR %d", code)
	}
	var all []string
	for _, n := range obj["nodes"].([]any) {
		m := n.(map[string]any)
		all = append(all, fmt.Sprint(m["name"], "=", m["state"]))
	}
	return strings.Join(all, " ")
}

// soon asks again until it is answered as wanted, for as long as is allowed.
func soon(t *testing.T, within time.Duration, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(within); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", within, what)
		}
	}
}

func (p *peer) knows(want string) {
	p.t.Helper()
	soon(p.t.(*testing.T), patience, "6/1 says "+want, func() bool { return p.names() == want })
}

func number(v any) int64 {
	n, _ := v.(json.Number).Int64()
	return n
}

func TestNodesOverTheWire(t *testing.T) {
	t.Parallel()
	dir, _ := natsServer(t)
	a, b := serveNode(t, dir, "a"), serveNode(t, dir, "b")
	x, y := a.dial(), b.dial()
	x.knows("a=up b=up")
	y.knows("a=up b=up")
	where, _ := x.ask(6, 7, "")
	there, _ := y.ask(6, 7, "")
	if where["node"] != "a" || there["node"] != "b" || where["id"] == there["id"] {
		t.Errorf("6/7: %v and %v", where, there)
	}

	x.send(1, 2, "all")
	x.want(1, 2, "all")
	y.want(1, 2, "all")
	for i, c := range []*peer{x, y} {
		if obj, code := c.ask(1, 5, `{"group":"tea"}`); code != 0 || number(obj["members"]) != int64(i+1) {
			t.Errorf("1/5: %v, ERROR %d", obj, code)
		}
	}
	if obj, _ := x.ask(1, 7, `{"group":"tea","data":"hi"}`); number(obj["sent"]) != 2 {
		t.Errorf("1/7: %v", obj)
	}
	if push := y.recv(); push.sub != 8 || y.parse(push)["node"] != "a" || y.parse(push)["data"] != "hi" {
		t.Errorf("1/8: %v", push)
	}
	if obj, _ := y.ask(1, 6, `{"group":"tea"}`); number(obj["members"]) != 1 {
		t.Errorf("1/6: %v", obj)
	}

	for node, want := range map[string]string{"a": "a", "b": "b", "": "a"} {
		if obj, code := x.ask(6, 2, `{"node":"`+node+`","a":2,"b":3}`); code != 0 || number(obj["sum"]) != 5 || obj["node"] != want {
			t.Errorf("6/2 on %q: %v, ERROR %d", node, obj, code)
		}
	}
	for body, want := range map[string]uint16{
		`{"node":"none","a":1,"b":1}`:                11,
		`{"node":"b","a":9223372036854775807,"b":1}`: 3,
		`{"node":"b","a":1}`:                         3,
	} {
		if _, code := x.ask(6, 2, body); code != want {
			t.Errorf("6/2 %s: ERROR %d, want %d", body, code, want)
		}
	}

	first, _ := x.ask(6, 3, `{"user":"ann"}`)
	if obj, _ := y.ask(6, 4, `{"user":"ann","data":"1"}`); obj["sent"] != true {
		t.Errorf("6/4: %v", obj)
	}
	x.want(6, 6, `{"user":"ann","data":"1","node":"b"}`)
	z := b.dial()
	second, _ := z.ask(6, 3, `{"user":"ann"}`)
	if number(second["epoch"]) <= number(first["epoch"]) {
		t.Errorf("6/3: %v after %v", second, first)
	}
	if obj, _ := y.ask(6, 4, `{"user":"ann","data":"2"}`); obj["sent"] != true {
		t.Errorf("6/4: %v", obj)
	}
	z.want(6, 6, `{"user":"ann","data":"2","node":"b"}`)
	x.wantError(9, 6, 3)
	x.wantEnd()
	for _, body := range []string{`{"user":""}`, `{"user":"` + strings.Repeat("x", 65) + `"}`, `{}`} {
		if _, code := y.ask(6, 3, body); code != 3 {
			t.Errorf("6/3 %s: ERROR %d, want 3", body, code)
		}
	}
	if obj, _ := y.ask(6, 4, `{"user":"nobody","data":"2"}`); obj["sent"] != false {
		t.Errorf("6/4 to nobody: %v", obj)
	}

	w := a.dial()
	for i, c := range []*peer{w, y, w, y} {
		if obj, code := c.ask(6, 5, `{"room":"r","add":2}`); code != 0 || number(obj["value"]) != int64(2*(i+1)) {
			t.Errorf("6/5: %v, ERROR %d", obj, code)
		}
	}
	for body, want := range map[string]uint16{
		`{"room":"r","add":9223372036854775807}`:              3,
		`{"room":"","add":1}`:                                 3,
		`{"room":"` + strings.Repeat("x", 129) + `","add":1}`: 3,
	} {
		if _, code := w.ask(6, 5, body); code != want {
			t.Errorf("6/5 %s: ERROR %d, want %d", body, code, want)
		}
	}
	if _, stderr, code := millrace(t, nil, "", "serve", "--addr=tcp://127.0.0.1:0", "--cluster=embedded", "--cluster-dir="+dir, "--node=a", "--cluster-lease=100ms"); code != exitNoServer || strings.Count(stderr, "\n") != 1 {
		t.Errorf("a second node a: exit code %d, %q", code, stderr)
	}

	// A drain tells the others, and rooms move with their values.
	home, _ := w.ask(6, 5, `{"room":"r","add":0}`)
	from, to, at := a, b, y
	if home["node"] == "b" {
		from, to, at = b, a, w
	}
	last := from.dial()
	last.busy(3000)
	from.signal(syscall.SIGTERM)
	soon(t, patience, "6/1 says draining", func() bool { return strings.Contains(at.names(), "draining") || at.names() == to.node()+"=up" })
	soon(t, patience, "the room has moved", func() bool {
		obj, code := at.ask(6, 5, `{"room":"r","add":0}`)
		return code == 0 && obj["node"] == to.node()
	})
	if obj, _ := at.ask(6, 5, `{"room":"r","add":1}`); number(obj["value"]) != 9 || number(obj["token"]) <= number(home["token"]) {
		t.Errorf("6/5 after the drain: %v, before it %v", obj, home)
	}
	if code := from.wait(); code != exitOK {
		t.Errorf("exit code %d after the drain", code)
	}
	at.knows(to.node() + "=up")
}

// node is the name that the process was given.
func (p *process) node() string {
	for _, a := range p.cmd.Args {
		if name, ok := strings.CutPrefix(a, "--node="); ok {
			return name
		}
	}
	return ""
}

// A node that is killed or stands still is gone for the others within two leases; what it
// had is theirs, and when it goes on it knows.
func TestANodeThatIsKilledOrStandsStill(t *testing.T) {
	t.Parallel()
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGSTOP} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			dir, _ := natsServer(t)
			a := serveNode(t, dir, "a")
			x := a.dial()
			room, code := x.ask(6, 5, `{"room":"r","add":5}`) // alone: a is its home
			if code != 0 || room["node"] != "a" {
				t.Fatalf("6/5: %v, ERROR %d", room, code)
			}
			b := serveNode(t, dir, "b")
			y := b.dial()
			x.knows("a=up b=up")
			y.knows("a=up b=up")
			if obj, code := y.ask(6, 5, `{"room":"r","add":5}`); code != 0 || number(obj["value"]) != 10 || obj["node"] != "a" {
				t.Fatalf("6/5: %v, ERROR %d", obj, code)
			}
			if _, code := x.ask(6, 3, `{"user":"ann"}`); code != 0 {
				t.Fatal(code)
			}
			at := time.Now()
			if sig == syscall.SIGSTOP {
				proctest.Suspend(t, a.cmd.Process)
			} else {
				a.signal(sig)
			}
			if _, code := y.ask(6, 2, `{"node":"a","a":1,"b":1}`); code != 5 && code != 11 {
				t.Errorf("6/2 there: ERROR %d, want 5 or 11", code)
			}
			if took := time.Since(at); took > 20*time.Second {
				t.Errorf("6/2 there took %v", took)
			}
			soon(t, patience, "the room has a new home", func() bool {
				obj, code := y.ask(6, 5, `{"room":"r","add":1}`)
				if code != 0 && code != 11 {
					t.Errorf("6/5 meanwhile: ERROR %d", code)
				}
				if code == 0 && (obj["node"] != "b" || number(obj["value"]) != 1 || number(obj["token"]) <= number(room["token"])) {
					t.Errorf("6/5 at its new home: %v after %v", obj, room)
				}
				return code == 0
			})
			if names := y.names(); names != "b=up" {
				t.Errorf("6/1 says %s", names)
			}
			t.Logf("the room was homed anew %v after %v, lease %v", time.Since(at), sig, nodeLease)
			if obj, code := y.ask(6, 4, `{"user":"ann","data":""}`); code != 0 || obj["sent"] != false {
				t.Errorf("6/4: %v, ERROR %d, want nobody", obj, code)
			}
			if _, code := y.ask(6, 3, `{"user":"ann"}`); code != 0 {
				t.Errorf("6/3: ERROR %d", code)
			}
			if sig == syscall.SIGKILL {
				<-a.ended
				again := serveNode(t, dir, "a") // the name is free
				again.dial().knows("a=up b=up")
				return
			}
			a.signal(syscall.SIGCONT)
			z := a.dial()
			soon(t, patience, "the old home knows the new one", func() bool {
				obj, code := z.ask(6, 5, `{"room":"r","add":1}`)
				if code == 0 && obj["node"] != "b" {
					t.Errorf("6/5 at the old home: %v", obj)
				}
				return code == 0
			})
			x.wantError(9, 6, 3) // and the session that had the user is told
			x.wantEnd()
		})
	}
}

func TestNATSGoesAwayAndComesBack(t *testing.T) {
	t.Parallel()
	dir, nats := natsServer(t)
	a, b := serveNode(t, dir, "a"), serveNode(t, dir, "b")
	x, y := a.dial(), b.dial()
	x.knows("a=up b=up")
	y.knows("a=up b=up")
	if _, code := x.ask(6, 3, `{"user":"ann"}`); code != 0 {
		t.Fatal(code)
	}
	for _, c := range []*peer{x, y} {
		if _, code := c.ask(1, 5, `{"group":"tea"}`); code != 0 {
			t.Fatal(code)
		}
	}
	nats.Stop()
	x.knows("a=up")
	if obj, code := x.ask(1, 7, `{"group":"tea","data":"here"}`); code != 0 || number(obj["sent"]) != 1 {
		t.Errorf("1/7 while NATS is away: %v, ERROR %d", obj, code)
	}
	if obj, code := x.ask(1, 5, `{"group":"new"}`); code != 0 || number(obj["members"]) != 1 {
		t.Errorf("1/5 while NATS is away: %v, ERROR %d", obj, code)
	}
	if obj, code := x.ask(6, 2, `{"node":"","a":1,"b":1}`); code != 0 || obj["node"] != "a" {
		t.Errorf("6/2 on any: %v, ERROR %d", obj, code)
	}
	for body, handle := range map[string]uint16{`{"user":"bob"}`: 3, `{"user":"ann","data":""}`: 4, `{"node":"b","a":1,"b":1}`: 2} {
		at := time.Now()
		if _, code := x.ask(6, handle, body); code != 11 {
			t.Errorf("6/%d while NATS is away: ERROR %d, want 11", handle, code)
		}
		if took := time.Since(at); took > 10*time.Second {
			t.Errorf("6/%d while NATS is away took %v", handle, took)
		}
	}
	time.Sleep(nodeLease + nodeLease/4) // both have lost their names
	back, err := cluster.StartEmbedded(cluster.EmbeddedConfig{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer back.Stop()
	x.knows("a=up b=up")
	y.knows("a=up b=up")
	soon(t, patience, "the user is reached", func() bool {
		obj, code := y.ask(6, 4, `{"user":"ann","data":"back"}`)
		return code == 0 && obj["sent"] == true
	})
	soon(t, patience, "the join of meanwhile is in force", func() bool {
		obj, code := y.ask(1, 7, `{"group":"new","data":"x"}`)
		return code == 0 && number(obj["sent"]) == 1
	})
	if obj, code := y.ask(1, 7, `{"group":"tea","data":"x"}`); code != 0 || number(obj["sent"]) != 2 {
		t.Errorf("1/7 after: %v, ERROR %d", obj, code)
	}
}

// Without --cluster 6/* work on the one node there is.
func TestOneNodeIsACluster(t *testing.T) {
	t.Parallel()
	s := serve(t, "--node=solo")
	c, d := s.dial(), s.dial()
	if names := c.names(); names != "solo=up" {
		t.Errorf("6/1: %s", names)
	}
	if obj, _ := c.ask(6, 2, `{"node":"solo","a":1,"b":2}`); number(obj["sum"]) != 3 || obj["node"] != "solo" {
		t.Errorf("6/2: %v", obj)
	}
	if _, code := c.ask(6, 2, `{"node":"other","a":1,"b":2}`); code != 11 {
		t.Errorf("6/2 elsewhere: ERROR %d", code)
	}
	c.ask(6, 3, `{"user":"ann"}`)
	if obj, _ := d.ask(6, 4, `{"user":"ann","data":"1"}`); obj["sent"] != true {
		t.Errorf("6/4: %v", obj)
	}
	c.want(6, 6, `{"user":"ann","data":"1","node":"solo"}`)
	d.ask(6, 3, `{"user":"ann"}`)
	c.wantError(9, 6, 3)
	c.wantEnd()
	if obj, _ := d.ask(6, 5, `{"room":"r","add":7}`); number(obj["value"]) != 7 || obj["node"] != "solo" || number(obj["token"]) == 0 {
		t.Errorf("6/5: %v", obj)
	}
	if obj, _ := d.ask(1, 5, `{"group":"g"}`); number(obj["members"]) != 1 {
		t.Errorf("1/5: %v", obj)
	}
	d.send(1, 7, `{"group":"g","data":"x"}`)
	for range 2 {
		if f := d.recv(); f.sub == 8 && d.parse(f)["node"] != "solo" {
			t.Errorf("1/8: %v", f)
		}
	}
	s.stop()
}
