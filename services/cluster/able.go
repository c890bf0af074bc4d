package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// What the servers need to have.
const (
	leastMajor, leastMinor = 2, 11   // message TTLs
	overhead               = 4 << 10 // of a message beside its value: headers, the subject
)

// able asks whether the servers can do what this package needs. ErrServers: they can't.
func (c *Cache) able(ctx context.Context, nc *nats.Conn, js jetstream.JetStream) error {
	version := nc.ConnectedServerVersion()
	var major, minor int
	if _, err := fmt.Sscanf(version, "%d.%d", &major, &minor); err == nil &&
		(major < leastMajor || major == leastMajor && minor < leastMinor) {
		return fmt.Errorf("%w: NATS %s is older than %d.%d", ErrServers, version, leastMajor, leastMinor)
	}
	if most := nc.MaxPayload(); most < int64(c.cfg.MaxValue)+overhead {
		return fmt.Errorf("%w: their max_payload of %d bytes is less than a value of %d and what goes with it; raise it to %d",
			ErrServers, most, c.cfg.MaxValue, c.cfg.MaxValue+overhead)
	}
	// A server that has just started has no JetStream for a moment.
	for end := time.Now().Add(c.cfg.Timeout); ; {
		_, err := js.AccountInfo(ctx)
		off := errors.Is(err, jetstream.ErrJetStreamNotEnabled)
		switch {
		case errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount), off && time.Now().After(end):
			return fmt.Errorf("%w: JetStream is not enabled, for this account at least; start them with -js", ErrServers)
		case !off:
			return nil // whatever is wrong, the buckets show
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Codes of servers that won't ever have room for a stream, or for as many copies of it.
var noRoom = []jetstream.ErrorCode{
	10002, // the account's resources
	10005, // no peers for the copies
	10023, // resources
	10027, // streams
	10028, // memory
	10047, // storage
	10074, // copies without a cluster
}

// unable says whether err means that the servers won't hold the bucket as it is asked for.
func (c *Cache) unable(err error) error {
	var api *jetstream.APIError
	if !errors.As(err, &api) || !slices.Contains(noRoom, api.ErrorCode) {
		return nil
	}
	if c.cfg.Replicas > 1 {
		return fmt.Errorf("%w: %w", &ConfigError{"Replicas", c.cfg.Replicas, "the servers don't hold so many copies: " + api.Description}, ErrServers)
	}
	return fmt.Errorf("%w: a bucket of %d bytes: %s", ErrServers, c.cfg.MaxBytes, api.Description)
}

// copies has a bucket that stands kept in as many copies as are asked for, if those are more.
func (b *bucket) copies(ctx context.Context, c *Cache) error {
	cfg := b.stream.CachedInfo().Config
	if cfg.Replicas >= c.cfg.Replicas {
		return nil
	}
	cfg.Replicas = c.cfg.Replicas
	stream, err := b.js.UpdateStream(ctx, cfg)
	if err != nil {
		return err
	}
	b.stream = stream
	return nil
}
