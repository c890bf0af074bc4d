package cluster_test

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"millrace/services"
	"millrace/services/cluster"
)

func TestAFullBucketHasRoomForDeletesAndUnlocks(t *testing.T) {
	srv := embedded(t)
	c := open(t, srv.URL(), steady, func(cfg *cluster.Config) { cfg.MaxBytes = 32 << 10 })
	type held struct {
		key   string
		token uint64
	}
	var locks []held
	for i := 0; ; i++ {
		key := fmt.Sprint(i)
		token, err := services.LockAndWait(background, c, key, services.LockOptions{TTL: time.Hour})
		if errors.Is(err, services.ErrCacheFull) {
			break
		}
		if err != nil || i > 1000 {
			t.Fatalf("lock %d: %v", i, err)
		}
		locks = append(locks, held{key, token})
	}
	for _, h := range locks {
		if ok, err := c.Unlock(background, h.key, h.token); !ok || err != nil {
			t.Fatalf("unlock %s of %d in a full bucket: got %v, %v", h.key, len(locks), ok, err)
		}
	}
	var keys []string
	for i := 0; ; i++ {
		_, err := c.Set(background, fmt.Sprint(i), []byte("v"), 0)
		if errors.Is(err, services.ErrCacheFull) {
			break
		}
		if err != nil || i > 1000 {
			t.Fatalf("set %d: %v", i, err)
		}
		keys = append(keys, fmt.Sprint(i))
	}
	for _, k := range keys {
		if ok, err := c.Delete(background, k); !ok || err != nil {
			t.Fatalf("delete %s of %d in a full bucket: got %v, %v", k, len(keys), ok, err)
		}
		if _, err := c.Get(background, k); !errors.Is(err, services.ErrNotFound) {
			t.Fatalf("get %s after its delete: %v", k, err)
		}
	}
}

func TestAnExpiredValueIsNotReplacedByItsRevision(t *testing.T) {
	c := open(t, embedded(t).URL(), steady)
	rev, err := c.Set(background, "k", []byte("v"), 300*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(350 * time.Millisecond) // its ttl; the servers remove it after a second or two
	if ok, e, err := c.CompareAndSetRevision(background, "k", rev, []byte("w"), 0); ok || e.Revision != 0 || err != nil {
		t.Errorf("compare with the revision of an expired value: got %v, %+v, %v", ok, e, err)
	}
	rev, err = c.Set(background, "k", []byte("v"), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if ok, _, err := c.CompareAndSetRevision(background, "k", rev, []byte("w"), 0); !ok || err != nil {
		t.Errorf("compare with the revision of a value that lives: got %v, %v", ok, err)
	}
	if _, err := c.Set(background, "k", nil, -1); err == nil {
		t.Error("negative ttl: want an error")
	}
	if _, _, err := c.CompareAndSet(background, "k", nil, nil, -time.Second); err == nil {
		t.Error("negative ttl: want an error")
	}
}

func TestTheEmbeddedServerAsksForItsToken(t *testing.T) {
	dir := t.TempDir()
	srv, err := cluster.StartEmbedded(cluster.EmbeddedConfig{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Stop()
	u, err := url.Parse(srv.URL())
	if err != nil {
		t.Fatal(err)
	}
	if nc, err := nats.Connect("nats://" + u.Host); !errors.Is(err, nats.ErrAuthorization) {
		nc.Close()
		t.Errorf("without the token: got %v", err)
	}
	for _, name := range []string{"address", "token"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || (runtime.GOOS != "windows" && info.Mode().Perm() != 0o600) {
			t.Errorf("%s: %v, %v, want mode 0600", name, info, err)
		}
	}
}

// A holder that can't renew its lock is notified before anybody else gets it.
func TestAHolderHearsOfItsLoss(t *testing.T) {
	srv := embedded(t)
	p, url := proxied(t, srv)
	holder, other := open(t, url, lease), open(t, srv.URL(), lease)
	var lost atomic.Int32
	token := mustLock(t, holder, "l", services.LockOptions{TTL: time.Second, Renew: true, OnLost: func() { lost.Add(1) }})
	if got, err := services.LockAndWait(background, other, "l", services.LockOptions{TTL: time.Hour, Wait: lease}); got != 0 || err != nil {
		t.Fatalf("beside a lock that is renewed: got %d, %v", got, err)
	}
	p.Cut()
	next := mustLock(t, other, "l", services.LockOptions{TTL: time.Hour, Wait: time.Minute})
	if lost.Load() != 1 || next <= token {
		t.Errorf("told %d times before token %d after %d", lost.Load(), next, token)
	}
	p.Heal()
	eventually(t, "it is back", func() bool { _, err := holder.Set(background, "x", nil, 0); return err == nil })
	if ok, err := holder.Unlock(background, "l", token); ok {
		t.Errorf("unlock of a lost lock: got %v, %v", ok, err)
	}
	quiet := mustLock(t, other, "m", services.LockOptions{TTL: time.Hour, OnLost: func() { lost.Add(1) }})
	if ok, err := other.Unlock(background, "m", quiet); !ok || err != nil || lost.Load() != 1 {
		t.Errorf("an unlock is no loss: got %v, %v, told %d times", ok, err, lost.Load())
	}
}
