package cluster_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"millrace/services"
)

// BenchmarkShared is the shared cache beside the plain calls of nats.go's
// key-value on the same server.
func BenchmarkShared(b *testing.B) {
	srv := embedded(b)
	c := open(b, srv.URL(), steady)
	nc, err := nats.Connect(srv.URL())
	if err != nil {
		b.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		b.Fatal(err)
	}
	kv, err := js.CreateKeyValue(background, jetstream.KeyValueConfig{Bucket: "plain", Storage: jetstream.FileStorage})
	if err != nil {
		b.Fatal(err)
	}
	val := []byte("0123456789abcdef")
	rev, err := kv.Put(background, "k", val)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := c.Set(background, "k", val, 0); err != nil {
		b.Fatal(err)
	}
	run := func(name string, fn func() error) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := fn(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	run("get/nats", func() error { _, err := kv.Get(background, "k"); return err })
	run("get/cluster", func() error { _, err := c.Get(background, "k"); return err })
	run("set/nats", func() error { _, err := kv.Put(background, "s", val); return err })
	run("set/cluster", func() error { _, err := c.Set(background, "s", val, 0); return err })
	run("cas/nats get+update", func() error {
		e, err := kv.Get(background, "k")
		if err == nil {
			rev, err = kv.Update(background, "k", val, e.Revision())
		}
		return err
	})
	run("cas/nats update", func() error { rev, err = kv.Update(background, "k", val, rev); return err })
	run("cas/cluster by value", func() error { _, _, err := c.CompareAndSet(background, "k", val, val, 0); return err })
	e, err := c.Get(background, "k")
	if err != nil {
		b.Fatal(err)
	}
	run("cas/cluster by revision", func() error {
		_, e, err = c.CompareAndSetRevision(background, "k", e.Revision, val, 0)
		return err
	})
	o := services.LockOptions{TTL: time.Minute}
	run("lock+unlock/cluster", func() error {
		token, err := services.LockAndWait(background, c, "l", o)
		if err == nil {
			_, err = c.Unlock(background, "l", token)
		}
		return err
	})
}
