//go:build linux

package bench

import (
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"
)

// fakeServices is a small model of the reference server's services. twist may change a reply's body, to lie.
type fakeServices struct {
	twist func(handle uint32, n int, body []byte) []byte

	mu     sync.Mutex
	keys   map[string]json.RawMessage
	token  uint64
	groups map[string][]*fakeConn
	users  map[string]*fakeConn
	rooms  map[string]int
	timers sync.WaitGroup
	stop   chan struct{}
}

func startServices(t *testing.T, twist func(uint32, int, []byte) []byte) *fakeServer {
	f := &fakeServices{twist: twist, keys: map[string]json.RawMessage{}, groups: map[string][]*fakeConn{},
		users: map[string]*fakeConn{}, rooms: map[string]int{}, stop: make(chan struct{})}
	t.Cleanup(func() {
		close(f.stop)
		f.timers.Wait()
	})
	return startFake(t, f.answer)
}

func (f *fakeServices) say(c *fakeConn, handle uint32, n int, body []byte) {
	if f.twist != nil {
		if body = f.twist(handle, n, body); body == nil {
			return
		}
	}
	c.send(handle, body)
}

func (f *fakeServices) answer(s *fakeServer, c *fakeConn, handle uint32, body []byte) {
	var in struct {
		A, B          int64
		ID, Ms        int
		Key, Group    string
		User, Room    string
		Data          string
		Name          string
		Args          []int64
		Val, Expect   json.RawMessage
		Token, Repeat uint64
	}
	_ = json.Unmarshal(body, &in)
	f.mu.Lock()
	defer f.mu.Unlock()
	switch handle {
	case handleSum, handleSumInline:
		f.say(c, handle, c.n, jsonf(`{"sum": %d}`, in.A+in.B))
	case handleSleep:
		f.say(c, handle, c.n, jsonf(`{"slept_ms":%d}`, in.Ms))
	case handleQuery:
		f.say(c, handle, c.n, jsonf(`{"columns":["id","randomnumber"],"rows":[[%d,7]],"tag":"SELECT 1"}`, in.Args[0]))
	case handleCacheSet:
		f.keys[in.Key] = in.Val
		f.say(c, handle, c.n, jsonf(`{"ok":true}`))
	case handleCacheGet:
		f.say(c, handle, c.n, jsonf(`{"found":true,"val":%s}`, f.keys[in.Key]))
	case handleCacheCAS:
		f.keys[in.Key] = in.Val
		f.say(c, handle, c.n, jsonf(`{"swapped":true,"val":%s}`, in.Val))
	case handleLock:
		f.token++
		f.say(c, handle, c.n, jsonf(`{"locked":true,"token":%d}`, f.token))
	case handleUnlock:
		f.say(c, handle, c.n, jsonf(`{"unlocked":%v}`, in.Token <= f.token))
	case handleTimerKill:
		f.say(c, handle, c.n, jsonf(`{"id":%d,"killed":true}`, in.ID))
	case handleTimerSet:
		f.say(c, handle, c.n, jsonf(`{"id":%d}`, in.ID))
		if in.Repeat == 0 {
			f.timers.Go(func() { f.tick(c, in.ID, time.Duration(in.Ms)*time.Millisecond) })
		}
	case handleJoin:
		f.groups[in.Group] = append(f.groups[in.Group], c)
		f.say(c, handle, c.n, jsonf(`{"members":%d}`, len(f.groups[in.Group])))
	case handleGroupSend:
		members := f.groups[in.Group]
		for i, m := range members {
			f.say(m, handleGroupPush, i, jsonf(`{"group":%q,"from":1,"round":1,"data":%q}`, in.Group, in.Data))
		}
		f.say(c, handle, c.n, jsonf(`{"sent":%d}`, len(members)))
	case handleNodes:
		f.say(c, handle, c.n, jsonf(`{"nodes":[{"name":"n1","state":"up","sessions":1,"self":true}]}`))
	case handleCallOn:
		f.say(c, handle, c.n, jsonf(`{"sum":%d,"node":"n1"}`, in.A+in.B))
	case handleBind:
		f.token++
		f.users[in.User] = c
		f.say(c, handle, c.n, jsonf(`{"epoch":%d}`, f.token))
	case handleSendUser:
		f.say(f.users[in.User], handleUserPush, c.n, jsonf(`{"user":%q,"data":%q,"node":"n1"}`, in.User, in.Data))
		f.say(c, handle, c.n, jsonf(`{"sent":true}`))
	case handleRoom:
		f.rooms[in.Room]++
		f.say(c, handle, c.n, jsonf(`{"value":%d,"node":"n1","token":1}`, f.rooms[in.Room]))
	default:
		honest(s, c, handle, body)
	}
}

func (f *fakeServices) tick(c *fakeConn, id int, every time.Duration) {
	t := time.NewTicker(every)
	defer t.Stop()
	for n := 1; ; n++ {
		select {
		case <-t.C:
			f.say(c, handleTimerFire, n, jsonf(`{"id":%d,"n":%d,"left":-1}`, id, n))
		case <-f.stop:
			return
		}
	}
}

var serviceSpecs = []string{
	"services/3x4", "inline/2x2", "sleep/3x1/2ms", "database/3x2", "cache/3x6", "locks/3", "setkill/3x4",
	"timers/3x2/10ms", "groups/7x2/g3", "mixed/41x2/10ms",
	"cluster-call/3x2/n1", "cluster-group/7x2/g3/n1", "cluster-user/5x3/n1", "cluster-bind/3x2/n1", "room/3x4/n1",
}

func TestServicesAreMeasured(t *testing.T) {
	for _, spec := range serviceSpecs {
		t.Run(spec, func(t *testing.T) {
			r := measureFake(t, startServices(t, nil).target(), spec)
			if r.Error != "" || r.Skipped != "" || r.Messages == 0 {
				t.Fatalf("got %+v", r)
			}
			if strings.HasPrefix(spec, "mixed") && len(r.Streams) != 5 {
				t.Errorf("got %d kinds of traffic, want 5: %+v", len(r.Streams), r.Streams)
			}
		})
	}
}

func TestWrongServiceRepliesAreCaught(t *testing.T) {
	// from the 20th frame of a connection on, past every probe
	replace := func(handle uint32, old, with string) func(uint32, int, []byte) []byte {
		return func(h uint32, n int, b []byte) []byte {
			if h == handle && n >= 20 {
				return []byte(strings.Replace(string(b), old, with, 1))
			}
			return b
		}
	}
	cases := []struct {
		name, spec string
		twist      func(uint32, int, []byte) []byte
	}{
		{"sum", "services/2x3", replace(handleSum, `"sum": `, `"sum": 1`)},
		{"row of another id", "database/2x3", replace(handleQuery, `[[`, `[[1`)},
		{"no row", "database/2x3", replace(handleQuery, `SELECT 1`, `SELECT 0`)},
		{"stale value", "cache/2x3", replace(handleCacheGet, `"val":"`, `"val":"0`)},
		{"not swapped", "cache/2x3", replace(handleCacheCAS, `true`, `false`)},
		{"token that does not grow", "locks/2", func(h uint32, n int, b []byte) []byte {
			if h == handleLock && n >= 20 {
				return []byte(`{"locked":true,"token":1}`)
			}
			return b
		}},
		{"not killed", "setkill/2x3", replace(handleTimerKill, `true`, `false`)},
		{"slept too short", "sleep/2x1/2ms", replace(handleSleep, `:2`, `:1`)},
		{"a firing left out", "timers/2x2/5ms", func(h uint32, n int, b []byte) []byte {
			if h == handleTimerFire && n == 5 {
				return nil
			}
			return b
		}},
		{"a firing of an unknown timer", "timers/2x2/5ms", func(h uint32, n int, b []byte) []byte {
			if h == handleTimerFire && n == 5 {
				return []byte(`{"id":9,"n":5,"left":-1}`)
			}
			return b
		}},
		{"group data changed", "groups/4x1/g2", func(h uint32, n int, b []byte) []byte {
			if h == handleGroupPush {
				return []byte(strings.Replace(string(b), "ggg", "ghg", 1))
			}
			return b
		}},
		{"group data changed for one member", "groups/4x1/g2", func(h uint32, n int, b []byte) []byte {
			if h == handleGroupPush && n == 1 {
				return []byte(strings.Replace(string(b), `"from":1`, `"from":2`, 1))
			}
			return b
		}},
		{"sum of another node", "cluster-call/2x3/n1", replace(handleCallOn, `"n1"`, `"n2"`)},
		{"wrong sum of a node", "cluster-call/2x3/n1", replace(handleCallOn, `"sum":`, `"sum":1`)},
		{"epoch that does not grow", "cluster-bind/2x2/n1", func(h uint32, n int, b []byte) []byte {
			if h == handleBind && n >= 20 {
				return []byte(`{"epoch":1}`)
			}
			return b
		}},
		{"message of another number", "cluster-user/2x3/n1", replace(handleUserPush, `"data":"1.2`, `"data":"1.3`)},
		{"message cut short", "cluster-user/2x3/n1", replace(handleUserPush, `u","node"`, `","node"`)},
		{"message of another user", "cluster-user/2x3/n1", replace(handleUserPush, `"bench-`, `"bench-1`)},
		{"message not taken", "cluster-user/2x3/n1", replace(handleSendUser, `true`, `false`)},
		{"value that came before", "room/2x3/n1", func(h uint32, n int, b []byte) []byte {
			if h == handleRoom && n >= 20 {
				return []byte(`{"value":5,"node":"n1","token":1}`)
			}
			return b
		}},
		{"wrong count sent", "groups/4x1/g2", func(h uint32, _ int, b []byte) []byte {
			if h == handleGroupSend {
				return []byte(`{"sent":1}`)
			}
			return b
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if r := measureFake(t, startServices(t, c.twist).target(), c.spec); r.Error == "" {
				t.Errorf("got %+v, want an error", r)
			}
		})
	}
}

func TestATimerThatFiresEarlyIsCaught(t *testing.T) {
	srv := startFake(t, func(s *fakeServer, c *fakeConn, h uint32, b []byte) {
		if h != handleTimerSet {
			honest(s, c, h, b)
			return
		}
		c.send(h, []byte(`{"id":1}`))
		c.send(handleTimerFire, []byte(`{"id":1,"n":1,"left":-1}`))
	})
	if r := measureFake(t, srv.target(), "timers/1x1/50ms"); !strings.Contains(r.Error, "early") {
		t.Errorf("got error %q, want one that says early", r.Error)
	}
}
