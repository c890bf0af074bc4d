package cluster

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"millrace/services"
)

// bucket is a JetStream stream laid out as a key-value bucket, so that the
// usual tools can look into it.
type bucket struct {
	js      jetstream.JetStream
	stream  jetstream.Stream
	kv      jetstream.KeyValue
	prefix  string // of its subjects
	timeout time.Duration
}

// bucket opens the named bucket, or makes it. AllowDirect is off: with it, a
// Get may be answered by a replica that lags behind.
func (c *Cache) bucket(ctx context.Context, js jetstream.JetStream, name string) (bucket, error) {
	b := bucket{js: js, prefix: "$KV." + name + ".", timeout: c.cfg.Timeout}
	_, err := js.CreateStream(ctx, jetstream.StreamConfig{
		Name: "KV_" + name, Subjects: []string{b.prefix + ">"},
		Storage: jetstream.FileStorage, Replicas: c.cfg.Replicas,
		MaxMsgsPerSubject: 1, MaxBytes: c.cfg.MaxBytes, Discard: jetstream.DiscardNew,
		AllowRollup: true, DenyDelete: true, AllowMsgTTL: true, SubjectDeleteMarkerTTL: markerTTL,
	})
	if err != nil && !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		return b, fmt.Errorf("cluster: make bucket %s: %w", name, err)
	}
	if b.kv, err = js.KeyValue(ctx, name); err != nil {
		return b, fmt.Errorf("cluster: open bucket %s: %w", name, err)
	}
	if b.stream, err = js.Stream(ctx, "KV_"+name); err != nil {
		return b, fmt.Errorf("cluster: open bucket %s: %w", name, err)
	}
	if cfg := b.stream.CachedInfo().Config; !cfg.AllowMsgTTL || cfg.AllowDirect {
		return b, fmt.Errorf("cluster: bucket %s was not made by this package (message TTL %v, direct reads %v)", name, cfg.AllowMsgTTL, cfg.AllowDirect)
	}
	return b, nil
}

// markerTTL is how long the mark of a deleted key stays, for those who watch.
const markerTTL = 10 * time.Second

// subjectKey encodes any key as one subject token that is never empty.
func subjectKey(key string) string {
	return "k" + base64.RawURLEncoding.EncodeToString([]byte(key))
}

// write is one message to a bucket.
type write struct {
	key    string // a subject token
	value  []byte
	purge  bool          // a delete
	ttl    time.Duration // the servers remove it after; rounded up to seconds
	expect int64         // the subject's last sequence; -1 = whatever
}

// put writes and returns the new sequence. errConflict: expect was wrong.
func (b bucket) put(ctx context.Context, w write) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	m := &nats.Msg{Subject: b.prefix + w.key, Data: w.value}
	switch {
	case w.purge:
		m.Header = nats.Header{headerOperation: {"PURGE"}, jetstream.MsgRollup: {jetstream.MsgRollupSubject}}
	case w.ttl > 0:
		m.Header = nats.Header{headerTTL: {strconv.FormatInt(w.ttl.Milliseconds(), 10)}}
	}
	opts := make([]jetstream.PublishOpt, 0, 3)
	opts = append(opts, jetstream.WithRetryAttempts(0))
	if w.ttl > 0 {
		opts = append(opts, jetstream.WithMsgTTL(wholeSeconds(w.ttl)))
	}
	if w.expect >= 0 {
		opts = append(opts, jetstream.WithExpectLastSequencePerSubject(uint64(w.expect)))
	}
	ack, err := b.js.PublishMsg(ctx, m, opts...)
	if err != nil {
		return 0, translate(err)
	}
	return ack.Sequence, nil
}

// wholeSeconds rounds up to what the servers take, saturating.
func wholeSeconds(d time.Duration) time.Duration {
	return min((d/time.Second+1), 100*365*24*3600) * time.Second
}

// Headers of a message.
const (
	headerOperation = "KV-Operation" // DEL or PURGE: a marker of a delete
	headerTTL       = "Millrace-Ttl" // milliseconds; finer than the servers' own
)

// record is what stands under a subject: a value, the marker of a delete
// (present is false), or nothing at all (rev is 0).
type record struct {
	rev     uint64
	present bool
	value   []byte
}

// get asks the stream's leader what stands under a subject now.
func (b bucket) get(ctx context.Context, key string) (record, error) {
	ctx, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	m, err := b.stream.GetLastMsgForSubject(ctx, b.prefix+key)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return record{}, nil
	}
	if err != nil {
		return record{}, translate(err)
	}
	if m.Header.Get(headerOperation) != "" || m.Header.Get(jetstream.MarkerReasonHeader) != "" || expired(m) {
		return record{rev: m.Sequence}, nil
	}
	return record{m.Sequence, true, m.Data}, nil
}

// expired: its own ttl has passed, though the servers, who count in seconds,
// have not removed it yet.
func expired(m *jetstream.RawStreamMsg) bool {
	text := m.Header.Get(headerTTL)
	if text == "" {
		return false
	}
	ms, err := strconv.ParseInt(text, 10, 64)
	return err == nil && time.Since(m.Time) >= time.Duration(ms)*time.Millisecond
}

// errConflict: the subject's last sequence was not the expected one.
var errConflict = errors.New("cluster: changed by another")

// translate turns an error of the client's library into ours.
func translate(err error) error {
	var api *jetstream.APIError
	if errors.As(err, &api) {
		switch api.ErrorCode {
		case jetstream.JSErrCodeStreamWrongLastSequence, codeWrongLastSequence:
			return errConflict
		case codeStoreFailed:
			return fmt.Errorf("%w: %w", services.ErrCacheFull, err)
		}
	}
	if errors.Is(err, nats.ErrMaxPayload) {
		return fmt.Errorf("%w: %w", services.ErrCacheKey, err)
	}
	if errors.Is(err, context.Canceled) {
		return err
	}
	return fmt.Errorf("%w: %w", services.ErrCacheDown, err)
}

// Codes of the servers that the client's library has no name for.
const (
	codeWrongLastSequence jetstream.ErrorCode = 10164 // of a replicated stream
	codeStoreFailed       jetstream.ErrorCode = 10077 // maximum bytes exceeded
)
