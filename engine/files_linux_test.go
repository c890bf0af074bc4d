package engine

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"millrace/codec"
	"millrace/engine/internal/gnetio"
)

// Few open files: a burst of connections does not end the server, those it may have are
// served, the others get an end.
func TestBurstBeyondTheOpenFiles(t *testing.T) {
	rounds := 3
	if *long {
		rounds = 20
	}
	srv := spawn(t, childConfig{Config: Config{Dispatch: Ordered, Limits: Limits{MaxConns: 60}, Timeouts: Timeouts{Linger: 50 * time.Millisecond}}, Files: 160})
	for round := range rounds {
		var served, refused atomic.Int32
		var wg sync.WaitGroup
		hold := make(chan bool)
		var answered sync.WaitGroup
		for range 600 {
			wg.Add(1)
			answered.Add(1)
			go func() {
				defer wg.Done()
				once := sync.OnceFunc(answered.Done)
				defer once()
				c, err := net.DialTimeout("tcp", srv.addr, time.Minute)
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Close()
				c.SetDeadline(time.Now().Add(time.Minute))
				c.Write(frame(1, 1, "x"))
				p, err := codec.NewReader(c, nil).Next()
				switch {
				case err == nil && p.Main == 1:
					served.Add(1)
					once()
					<-hold
				case err == nil && p.Sub == SubError, errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
					refused.Add(1)
				default:
					t.Errorf("got %v %v", p, err)
				}
			}()
		}
		answered.Wait()
		close(hold)
		wg.Wait()
		if served.Load() != 60 || served.Load()+refused.Load() != 600 {
			t.Errorf("round %d: %d served, %d refused, want 60 and 540", round, served.Load(), refused.Load())
		}
		waitFor(t, "the sessions to go", func() bool { return srv.stats().Conns == 0 })
	}
	if e := srv.ask("err"); e != "err <nil>" {
		t.Error(e)
	}
}

// Files that others eat: new connections are refused, old ones served, and when the
// files are free again so is the server.
func TestFilesEatenByOthers(t *testing.T) {
	srv := spawn(t, childConfig{Config: Config{Limits: Limits{MaxConns: 100}, Timeouts: Timeouts{Linger: 50 * time.Millisecond}}, Files: 400})
	old := srv.dial()
	old.send(1, 1, "x")
	old.expect(1, 1, "x")
	for _, left := range []int{20, 4, 0} { // 95 %, nearly all, all
		hog := fmt.Sprint("hog ", left)
		srv.ask(hog)
		served := 0 // one after another
		for range 30 {
			c, err := net.DialTimeout("tcp", srv.addr, time.Second)
			if err != nil {
				continue // not even accepted
			}
			c.SetDeadline(time.Now().Add(20 * time.Millisecond))
			c.Write(frame(1, 1, "x"))
			if p, err := codec.NewReader(c, nil).Next(); err == nil && p.Main == 1 {
				if served++; served > 3 {
					t.Errorf("served with %d files left", left)
				}
				// A file that was open for a moment has left a place below, which this
				// connection is in.
				c.Close()
				waitFor(t, "the connection to go", func() bool { return srv.stats().Conns == 1 })
				srv.ask(hog)
			} else {
				served = 0
			}
			c.Close()
			old.send(1, 1, "y")
			old.expect(1, 1, "y")
		}
	}
	srv.ask("free")
	waitFor(t, "new connections to be served again", func() bool {
		c, err := net.DialTimeout("tcp", srv.addr, time.Second)
		if err != nil {
			return false
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(time.Second))
		c.Write(frame(1, 1, "x"))
		p, err := codec.NewReader(c, nil).Next()
		return err == nil && p.Main == 1
	})
	if e := srv.ask("err"); e != "err <nil>" {
		t.Error(e)
	}
}

// All files eaten between two looks of the guard, whoever accepts: sessions are served
// on, a connection that comes then waits, and is served when there are files again.
func TestAcceptWithoutFilesEndsNothing(t *testing.T) {
	files := uint64(gnetio.Backlog() + 300)
	for _, cc := range []childConfig{
		{Config: Config{}, Files: 400},
		{Config: Config{Accept: AcceptSingle}, Files: files},
		{Config: Config{Accept: AcceptSingle, Balance: LeastConnections}, Files: files},
		{Config: Config{Addrs: []string{"unix://" + filepath.Join(t.TempDir(), "s")}}, Files: files},
	} {
		t.Run(fmt.Sprint(cc.Config.Accept, cc.Config.Balance, len(cc.Config.Addrs)), func(t *testing.T) {
			t.Parallel()
			cc.Config.MaxConns = 50
			srv := spawn(t, cc)
			network := "tcp"
			if len(cc.Config.Addrs) > 0 {
				network = "unix"
			}
			dial := func() (*client, error) {
				c, err := net.DialTimeout(network, srv.addr, time.Minute)
				if err != nil {
					return nil, err
				}
				return &client{Conn: c, t: t, r: codec.NewReader(c, nil)}, nil
			}
			old, err := dial()
			if err != nil {
				t.Fatal(err)
			}
			defer old.Close()
			old.send(1, 1, "x") // it has been accepted
			old.expect(1, 1, "x")
			for range 3 {
				srv.ask("hog 0")
				late, err := dial()
				if err != nil {
					t.Fatal(err)
				}
				late.send(1, 1, "late")
				for range 20 {
					old.send(1, 1, "y")
					old.expect(1, 1, "y")
					time.Sleep(5 * time.Millisecond)
				}
				srv.ask("free")
				late.expect(1, 1, "late")
				late.Close()
			}
			if e, st := srv.ask("err"), srv.stats(); e != "err <nil>" || st.AcceptErrs == 0 {
				t.Errorf("%s; %d accepts failed: files were never short", e, st.AcceptErrs)
			}
		})
	}
}

// An open-file limit that can't hold what is asked for is an error with both numbers.
func TestTooFewOpenFilesIsAnError(t *testing.T) {
	for _, cc := range []childConfig{
		{Config: Config{Limits: Limits{MaxConns: 500}}, Files: 160},
		{Config: Config{Limits: Limits{MaxConns: 60}, Accept: AcceptSingle}, Files: 160},
		{Config: Config{Accept: AcceptSingle}, Files: 160},
	} {
		c, text := trySpawn(t, cc)
		if c != nil {
			t.Errorf("%+v started", cc)
			continue
		}
		for _, want := range []string{"MaxConns", "160"} {
			if !bytes.Contains([]byte(text), []byte(want)) {
				t.Errorf("%q does not name %s", text, want)
			}
		}
	}
}
