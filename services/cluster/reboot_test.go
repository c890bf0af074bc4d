package cluster_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"millrace/services"
	"millrace/services/cluster"
)

// bootFile stands for the machine's boot id.
func bootFile(tb testing.TB, id string) string {
	tb.Helper()
	name := filepath.Join(tb.TempDir(), "boot_id")
	writeText(tb, name, id)
	return name
}

func writeText(tb testing.TB, name, text string) {
	tb.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
}

func there(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}

// The machine starts anew: the locks have gone, the values are there, tokens grow.
func TestARebootDropsTheLocksAndTokensGoOn(t *testing.T) {
	dir := t.TempDir()
	start := func() *cluster.Embedded {
		e, err := cluster.StartEmbedded(cluster.EmbeddedConfig{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(e.Stop)
		return e
	}
	boot := filepath.Join(dir, "boot")
	srv := start()
	ours, err := os.ReadFile(boot)
	if err != nil {
		t.Skip("no boot id on this system")
	}
	a := open(t, srv.URL(), steady)
	if _, err := a.Set(background, "k", []byte("kept"), 0); err != nil {
		t.Fatal(err)
	}
	token := mustLock(t, a, "l", services.LockOptions{TTL: time.Hour})
	srv.Stop()
	_ = a.Stop(background) // the lock stays: nobody is there to take it back
	streams := filepath.Join(dir, "data", "jetstream", "$G", "streams")
	if !there(filepath.Join(streams, "KV_millrace_locks")) {
		t.Fatalf("no lock bucket under %s: the servers lay their files out in another way", streams)
	}
	// The same boot: nothing is dropped.
	if err := cluster.AfterReboot(dir, bootFile(t, string(ours))); err != nil || !there(filepath.Join(streams, "KV_millrace_locks")) {
		t.Fatalf("the same boot: %v, lock bucket there: %v", err, there(filepath.Join(streams, "KV_millrace_locks")))
	}
	writeText(t, boot, "of an earlier start\n")
	srv = start()
	b := open(t, srv.URL(), steady)
	if e, err := b.Get(background, "k"); string(e.Value) != "kept" || err != nil {
		t.Errorf("value: got %q, %v", e.Value, err)
	}
	// A steady lease has not passed: only the reboot can have freed it. The new
	// bucket is waited out, as one that was lost is.
	c := open(t, srv.URL(), lease)
	if next := mustLock(t, c, "l", services.LockOptions{TTL: time.Hour, Wait: within}); next <= token {
		t.Errorf("got token %d after %d", next, token)
	}
	for _, x := range []*cluster.Cache{b, c} { // before the server's cleanup
		if err := x.Stop(background); err != nil {
			t.Error(err)
		}
	}
	if now, err := os.ReadFile(boot); string(now) != string(ours) || err != nil {
		t.Errorf("boot: got %q, %v, want %q", now, err, ours)
	}
}

// Whatever stands in the directory: nothing outside it is removed, and in it only
// lock buckets.
func TestARebootRemovesNothingElse(t *testing.T) {
	const streams = "data/jetstream/$G/streams"
	link := func(t *testing.T, to, name string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(to, name); err != nil {
			t.Skip(err)
		}
	}
	for _, c := range []struct {
		name string
		lay  func(t *testing.T, dir, out string)
		ok   bool
	}{
		{"never run", func(*testing.T, string, string) {}, true},
		{"a bucket is a link", func(t *testing.T, dir, out string) {
			link(t, filepath.Join(out, "KV_x_locks"), filepath.Join(dir, streams, "KV_x_locks"))
		}, true},
		{"a link inside a bucket", func(t *testing.T, dir, out string) {
			link(t, filepath.Join(out, "KV_x_locks"), filepath.Join(dir, streams, "KV_x_locks", "msgs"))
		}, true},
		{"streams is a link", func(t *testing.T, dir, out string) { link(t, out, filepath.Join(dir, streams)) }, false},
		{"data is a link", func(t *testing.T, dir, out string) {
			writeText(t, filepath.Join(out, "jetstream/$G/streams/KV_x_locks/msgs/1.blk"), "kept")
			link(t, out, filepath.Join(dir, "data"))
		}, false},
		{"a relative link", func(t *testing.T, dir, out string) {
			rel, err := filepath.Rel(filepath.Join(dir, "data/jetstream/$G"), out)
			if err != nil {
				t.Fatal(err)
			}
			link(t, rel, filepath.Join(dir, streams))
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, out := t.TempDir(), t.TempDir()
			kept := filepath.Join(out, "KV_x_locks", "1.blk")
			writeText(t, kept, "kept")
			c.lay(t, dir, out)
			if err := cluster.AfterReboot(dir, bootFile(t, "new")); (err == nil) != c.ok {
				t.Errorf("got %v, want an error: %v", err, !c.ok)
			}
			if !there(kept) {
				t.Error("a file outside the directory was removed")
			}
			if f := filepath.Join(out, "jetstream/$G/streams/KV_x_locks/msgs/1.blk"); there(filepath.Join(out, "jetstream")) && !there(f) {
				t.Error("a file behind a link was removed")
			}
			if there(filepath.Join(dir, "boot")) != c.ok {
				t.Errorf("boot written: %v, want %v", !c.ok, c.ok)
			}
		})
	}
	dir := t.TempDir()
	for _, name := range []string{"KV_a", "KV_a_locks", "KV_b_locksmith", "OTHER_locks", "KV_c_locks"} {
		writeText(t, filepath.Join(dir, streams, name, "msgs", "1.blk"), "x")
	}
	writeText(t, filepath.Join(dir, "token"), "t")
	if err := cluster.AfterReboot(dir, bootFile(t, "new")); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"KV_a": true, "KV_a_locks": false, "KV_b_locksmith": true, "OTHER_locks": true, "KV_c_locks": false} {
		if got := there(filepath.Join(dir, streams, name)); got != want {
			t.Errorf("%s: there %v, want %v", name, got, want)
		}
	}
	if !there(filepath.Join(dir, "token")) {
		t.Error("the token was removed")
	}
}
