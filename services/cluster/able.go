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

// Requirements on the servers.
const (
	leastMajor, leastMinor = 2, 11   // message TTLs
	overhead               = 4 << 10 // bytes of a message in addition to its value: headers, subject
)

// able checks whether the servers can do what this package needs. If not, the error is ErrServers.
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
	// A server that has just started briefly has no JetStream.
	for end := time.Now().Add(c.cfg.Timeout); ; {
		_, err := js.AccountInfo(ctx)
		off := errors.Is(err, jetstream.ErrJetStreamNotEnabled)
		switch {
		case errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount), off && time.Now().After(end):
			return fmt.Errorf("%w: JetStream is not enabled, for this account at least; start them with -js", ErrServers)
		case !off:
			return nil // other problems will show when opening the buckets
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Error codes of servers that will never have room for a stream, or for that many replicas of it.
var noRoom = []jetstream.ErrorCode{
	10002, // the account's resources
	10005, // no peers for the copies
	10023, // resources
	10027, // streams
	10028, // memory
	10047, // storage
	10074, // copies without a cluster
}

// peers calls try again for Config.Timeout while the servers have too few peers for the replicas
// of a bucket, because servers that start together with this process may join in a moment.
func (c *Cache) peers(ctx context.Context, try func() error) error {
	const few jetstream.ErrorCode = 10005
	for end := time.Now().Add(c.cfg.Timeout); ; {
		err := try()
		var api *jetstream.APIError
		if !errors.As(err, &api) || api.ErrorCode != few || time.Now().After(end) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// unable returns the error if err means that the servers can't hold the bucket as configured.
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

// copies raises the number of replicas of an existing bucket to the configured one.
func (b *bucket) copies(ctx context.Context, c *Cache) error {
	cfg := b.stream.CachedInfo().Config
	if cfg.Replicas >= c.cfg.Replicas {
		return nil
	}
	cfg.Replicas = c.cfg.Replicas
	return c.peers(ctx, func() error {
		stream, err := b.js.UpdateStream(ctx, cfg)
		if err == nil {
			b.stream = stream
		}
		return err
	})
}
