package main

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"millrace/codec"
	"millrace/dbasync/pgembed"
	"millrace/engine"
	"millrace/services"
	"millrace/services/client"
	"millrace/services/cluster"
)

const patience = time.Minute

// start starts a node of each name, with one database and one NATS server for all.
func start(t *testing.T, names ...string) (all []*services.Manager) {
	t.Helper()
	nats, err := cluster.StartEmbedded(cluster.EmbeddedConfig{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nats.Stop)
	db := pgembed.ForTest(t, pgembed.Config{}).URL()
	for _, name := range names {
		m, err := settings{addr: "tcp://127.0.0.1:0", node: name, db: db, nats: nats.URL()}.make(t.Context())
		if err == nil {
			err = m.Start(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { stop(t, m) })
		all = append(all, m)
	}
	return all
}

func stop(t *testing.T, m *services.Manager) {
	t.Helper()
	if !m.Running() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := m.Stop(ctx); err != nil {
		t.Error(err)
	}
}

// user is a client without reconnect, what it was told, and the ERRORs about what it did not ask.
type user struct {
	*client.Client
	t     *testing.T
	said  chan said
	other chan codec.Packet
	lost  chan error
}

func dial(t *testing.T, m *services.Manager) *user {
	t.Helper()
	u := &user{t: t, said: make(chan said, 16), other: make(chan codec.Packet, 16), lost: make(chan error, 1)}
	var err error
	u.Client, err = client.Dial(t.Context(), client.Config{
		Addrs: m.TCP().URLs(), NoReconnect: true,
		OnOther: func(p codec.Packet) { p = p.Clone(); u.other <- p },
		OnLost:  func(err error) { u.lost <- err },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(u.Close)
	u.On(services.Handle(1, subSaid), func(p codec.Packet) {
		var s said
		if err := json.Unmarshal(p.Body, &s); err != nil {
			t.Error(err)
		}
		u.said <- s
	})
	return u
}

func (u *user) create(name, password string) error {
	body, _ := json.Marshal(credentials{name, password})
	_, err := u.Do(u.t.Context(), services.Handle(1, subRegister), body)
	return err
}

func (u *user) login(name, password string) (loggedIn, error) {
	return client.Call[credentials, loggedIn](u.t.Context(), u.Client, services.Handle(1, subLogin), credentials{name, password})
}

func (u *user) say(to, text string) (bool, error) {
	res, err := client.Call[line, sent](u.t.Context(), u.Client, services.Handle(1, subSay), line{to, text})
	return res.Sent, err
}

func code(err error) engine.ErrorCode {
	var e *client.Error
	if errors.As(err, &e) {
		return engine.ErrorCode(e.Code)
	}
	return 0
}

func wait[T any](t *testing.T, what string, c chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		t.Fatalf("%s: nothing within %v", what, patience)
	}
	return v
}

func TestAUserHasOneSessionOnAllNodes(t *testing.T) {
	all := start(t, "a", "b")
	a, b := all[0], all[1]
	ann, ben := dial(t, a), dial(t, b)

	if _, err := ann.say("ben", "hello"); code(err) != engine.CodeUnauthorised {
		t.Errorf("without a login: %v, want unauthorised", err)
	}
	if err := errors.Join(ann.create("ann", "correct horse"), ben.create("ben", "battery staple")); err != nil {
		t.Fatal(err)
	}
	if err := ben.create("ann", "another password"); code(err) != engine.CodeConflict {
		t.Errorf("a name twice: %v, want conflict", err)
	}
	for _, c := range []credentials{{"ann", "battery staple"}, {"nobody", "correct horse"}} {
		if _, err := ann.login(c.Name, c.Password); code(err) != engine.CodeUnauthorised {
			t.Errorf("%v: %v, want unauthorised", c, err)
		}
	}
	first, err := ann.login("ann", "correct horse")
	if err != nil || first.Node != "a" {
		t.Fatalf("login: %+v, %v", first, err)
	}
	if _, err := ben.login("ben", "battery staple"); err != nil {
		t.Fatal(err)
	}

	// From node to node, both ways.
	if ok, err := ann.say("ben", "hello"); !ok || err != nil {
		t.Fatalf("said: %v, %v", ok, err)
	}
	if got := wait(t, "ben", ben.said); got != (said{"ann", "hello"}) {
		t.Errorf("ben was told %v", got)
	}

	// She comes again at the other node: the first session is told, and ends.
	again := dial(t, b)
	second, err := again.login("ann", "correct horse")
	if err != nil || second.Node != "b" || second.Epoch <= first.Epoch {
		t.Fatalf("the second login: %+v behind %+v, %v", second, first, err)
	}
	if p := wait(t, "an ERROR", ann.other); p.Sub != engine.SubError || p.Body[1] != byte(engine.CodeConflict) {
		t.Errorf("the first session was sent %d/%d %q, want ERROR conflict", p.Main, p.Sub, p.Body)
	}
	wait(t, "the first session's end", ann.lost)
	if ok, err := ben.say("ann", "there you are"); !ok || err != nil {
		t.Fatalf("said: %v, %v", ok, err)
	}
	if got := wait(t, "ann", again.said); got != (said{"ben", "there you are"}) {
		t.Errorf("ann was told %v", got)
	}

	// A node that goes takes its users with it.
	stop(t, b)
	back := dial(t, a)
	if _, err := back.login("ben", "battery staple"); err != nil {
		t.Fatal(err)
	}
	if ok, err := back.say("ann", "gone?"); ok || err != nil {
		t.Errorf("to a user who is nowhere: %v, %v, want false", ok, err)
	}
}
