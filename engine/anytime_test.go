package engine

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"reflect"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/codec"
)

// ownOrder are the methods of a session that belong into its own order: everything else is for
// any goroutine.
var ownOrder = []string{"Value", "SetValue", "SetFramer"}

// anywhere calls each of the others.
var anywhere = map[string]func(s *Session, g *Group){
	"Broadcast": func(s *Session, _ *Group) { s.Broadcast(1, 2, nil) },
	"Close":     func(s *Session, _ *Group) { s.Close() },
	"CloseWithError": func(s *Session, _ *Group) {
		s.CloseWithError(codec.Packet{Main: 1, Sub: 2}, CodeConflict, "at random", ReasonServerClosed)
	},
	"Connected":      func(s *Session, _ *Group) { s.Connected() },
	"ConnectedAt":    func(s *Session, _ *Group) { s.ConnectedAt() },
	"Context":        func(s *Session, _ *Group) { s.Context().Err() },
	"Detached":       func(s *Session, _ *Group) { s.Detached() },
	"Flight":         func(s *Session, _ *Group) { s.Flight() },
	"Groups":         func(s *Session, _ *Group) { s.Groups() },
	"Hold":           func(s *Session, _ *Group) { s.Hold()() },
	"ID":             func(s *Session, _ *Group) { s.Server().Session(s.ID()) },
	"Index":          func(s *Session, _ *Group) { s.Index() },
	"InputContext":   func(s *Session, _ *Group) { s.InputContext().Err() },
	"Kick":           func(s *Session, _ *Group) { s.Kick("at random") },
	"LocalAddr":      func(s *Session, _ *Group) { _ = s.LocalAddr().String() },
	"Logger":         func(s *Session, _ *Group) { s.Logger().Debug("at random") },
	"Loop":           func(s *Session, _ *Group) { s.Loop() },
	"Push":           func(s *Session, _ *Group) { s.Push(1, 2, []byte("push")) },
	"PushKeyed":      func(s *Session, _ *Group) { s.PushKeyed(7, 1, 2, []byte("keyed")) },
	"RemoteAddr":     func(s *Session, _ *Group) { _ = s.RemoteAddr().String() },
	"Reply":          func(s *Session, _ *Group) { s.Reply(codec.Packet{Main: 1, Sub: 2}, []byte("reply")) },
	"ReplyError":     func(s *Session, _ *Group) { s.ReplyError(codec.Packet{Main: 1, Sub: 2}, CodeConflict, "at random") },
	"Round":          func(s *Session, _ *Group) { s.Round() },
	"Send":           func(s *Session, _ *Group) { s.Send(1, 2, []byte("send")) },
	"SendGroup":      func(s *Session, g *Group) { s.SendGroup(g, 1, 2, nil) },
	"SendGroupKeyed": func(s *Session, g *Group) { s.SendGroupKeyed(g, 7, 1, 2, nil) },
	"SendPacket":     func(s *Session, _ *Group) { s.SendPacket(codec.Packet{Main: 1, Sub: 2}) },
	"Server":         func(s *Session, g *Group) { g.Join(s); g.Leave(s) },
	"SetTag":         func(s *Session, _ *Group) { s.SetTag("at random") },
	"State": func(s *Session, _ *Group) {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		s.State(ctx)
	},
	"Stats":  func(s *Session, _ *Group) { s.Stats() },
	"String": func(s *Session, _ *Group) { _ = s.String() },
	"Submit": func(s *Session, _ *Group) { s.Submit(func() { s.Value() }) },
	"Submitter": func(s *Session, _ *Group) {
		s.Submitter(EventQuery).Submit(func() { s.SetValue(1) })
	},
	"SyscallConn": func(s *Session, _ *Group) {
		if raw, err := s.SyscallConn(); err == nil {
			raw.Control(func(uintptr) {})
		}
	},
	"Tag":       func(s *Session, _ *Group) { s.Tag() },
	"TLS":       func(s *Session, _ *Group) { s.TLS() },
	"Transport": func(s *Session, _ *Group) { s.Transport() },
	"TryHold": func(s *Session, _ *Group) {
		if release, err := s.TryHold(100); err == nil {
			release()
		}
	},
}

// Every method of a session may be called by many goroutines at any time: while its connection
// comes, while it goes, and long after. Each session opens once and closes once, and at the end
// nothing is left of any.
func TestEveryMethodAtAnyTime(t *testing.T) {
	var names []string
	for m := range reflect.TypeFor[*Session]().Methods() {
		if anywhere[m.Name] == nil && !slices.Contains(ownOrder, m.Name) {
			t.Errorf("nobody calls %s here: list it", m.Name)
		}
	}
	for name := range anywhere {
		names = append(names, name)
	}
	slices.Sort(names)

	const latest = 32 // sessions to choose from, most of them gone
	var sessions [latest]atomic.Pointer[Session]
	var opens, closes atomic.Int64
	srv := serve(t, Config{Limits: Limits{MaxConns: 64}, Timeouts: Timeouts{Linger: 20 * time.Millisecond}}, &funcs{
		accept: func(s *Session) { sessions[opens.Add(1)%latest].Store(s) },
		read:   echo,
		close:  func(*Session, Reason) { closes.Add(1) },
	})
	group := srv.Group("g")
	const callers = 64
	calls := 2000
	if *long {
		calls = 20_000
	}
	called := make([]atomic.Int64, len(names))
	ends := []int{slices.Index(names, "Close"), slices.Index(names, "CloseWithError"), slices.Index(names, "Kick")}
	var all, clients sync.WaitGroup
	stop := make(chan struct{})
	for i := range 4 {
		clients.Go(func() { comeAndGo(srv, i, stop) })
	}
	for i := range callers {
		all.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 1))
			for n := 0; n < calls; runtime.Gosched() {
				s := sessions[r.IntN(latest)].Load()
				if s == nil {
					continue
				}
				n++
				k := r.IntN(len(names))
				if slices.Contains(ends, k) && r.IntN(10) > 0 {
					continue // or no session would live for long
				}
				anywhere[names[k]](s, group)
				called[k].Add(1)
			}
		})
	}
	all.Wait()
	close(stop)
	clients.Wait()
	waitFor(t, "every session to end", func() bool { return srv.table.count() == 0 && opens.Load() == closes.Load() })
	for k, name := range names {
		if called[k].Load() == 0 {
			t.Errorf("%s was never called", name)
		}
	}
	if n := group.Len(); n != 0 || opens.Load() < latest {
		t.Errorf("%d members left, %d sessions in all", n, opens.Load())
	}
	if st := srv.Stats(); st.Panics != 0 {
		t.Errorf("%d panics", st.Panics)
	}
	t.Logf("%d sessions", opens.Load())
}

// comeAndGo opens connections that ask once and leave in one way or another.
func comeAndGo(srv *Server, i int, stop <-chan struct{}) {
	for n := i; ; n++ {
		select {
		case <-stop:
			return
		default:
		}
		c, err := net.DialTimeout("tcp", srv.Addrs()[0].String(), 10*time.Second)
		if err != nil {
			continue
		}
		c.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprintf(c, "%s", frame(1, 1, "here"))
		c.Read(make([]byte, 100))
		if n%2 == 0 {
			c.(*net.TCPConn).SetLinger(0)
		}
		c.Close()
	}
}
