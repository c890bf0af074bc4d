package cluster

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"millrace/services"
)

// bucket is a JetStream stream in the format of a key-value bucket, so that the usual tools can
// read it.
type bucket struct {
	js      jetstream.JetStream
	push    nats.JetStreamContext // for follow
	stream  jetstream.Stream
	store   *connection // the connection that it belongs to
	name    string      // the stream's
	prefix  string      // of its subjects
	timeout time.Duration

	made    bool          // created by this call of open
	created time.Time     // creation time of the stream, which distinguishes it from others of the same name
	lastAt  time.Time     // of its last message when it was opened; zero = none
	nowAt   time.Time     // the servers' clock then
	top     atomic.Uint64 // the highest sequence seen: the stream can't end below it
	clock   clock
}

// open opens the named bucket, or creates it. AllowDirect is off, as with it a Get may be answered
// by a replica that lags behind. A new stream's sequences begin at the time in microseconds, above
// those of any earlier stream: so tokens and revisions keep increasing when a stream is lost.
func (c *Cache) open(ctx context.Context, l *connection, name string, first time.Time) (*bucket, error) {
	b := &bucket{js: l.js, push: l.push, name: "KV_" + name, prefix: "$KV." + name + ".", timeout: c.cfg.Timeout}
	err := c.peers(ctx, func() error {
		_, err := b.js.CreateStream(ctx, jetstream.StreamConfig{
			Name: b.name, Subjects: []string{b.prefix + ">"},
			Storage: jetstream.FileStorage, Replicas: c.cfg.Replicas, FirstSeq: uint64(first.UnixMicro()),
			MaxMsgsPerSubject: 1, MaxBytes: c.cfg.MaxBytes, Discard: jetstream.DiscardNew,
			AllowRollup: true, AllowMsgTTL: true, SubjectDeleteMarkerTTL: markerTTL,
		})
		return err
	})
	if unable := c.unable(err); unable != nil {
		return b, unable
	}
	if err != nil && !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		return b, fmt.Errorf("cluster: make bucket %s: %w", name, translate(err))
	}
	b.made = err == nil
	if b.stream, err = b.js.Stream(ctx, b.name); err != nil {
		return b, fmt.Errorf("cluster: open bucket %s: %w", name, translate(err))
	}
	if err = b.copies(ctx, c); err != nil {
		if unable := c.unable(err); unable != nil {
			return b, unable
		}
		return b, fmt.Errorf("cluster: copies of bucket %s: %w", name, translate(err))
	}
	info := b.stream.CachedInfo()
	if cfg := info.Config; !cfg.AllowMsgTTL || cfg.AllowDirect {
		return b, fmt.Errorf("cluster: bucket %s was not made by this package (message TTL %v, direct reads %v)", name, cfg.AllowMsgTTL, cfg.AllowDirect)
	}
	b.created, b.lastAt, b.nowAt = info.Created, info.State.LastTime, info.TimeStamp
	b.clock.set(info.TimeStamp)
	b.saw(info.State.LastSeq)
	return b, nil
}

// saw records a sequence reported by the servers.
func (b *bucket) saw(seq uint64) {
	for {
		top := b.top.Load()
		if seq <= top || b.top.CompareAndSwap(top, seq) {
			return
		}
	}
}

// errReplaced: the stream is not the one that this process has used.
var errReplaced = errors.New("cluster: the store has lost what it had acknowledged")

// same checks whether the stream is still the one that was opened, with everything that was seen of
// it. Otherwise the error is errReplaced.
func (b *bucket) same(ctx context.Context) error {
	ctx, cancel := b.exchange(ctx)
	defer cancel()
	top := b.top.Load()
	info, err := b.stream.Info(ctx)
	if err != nil {
		return fmt.Errorf("cluster: stream %s: %w", b.name, failed(ctx, err))
	}
	b.clock.set(info.TimeStamp)
	switch {
	case !info.Created.Equal(b.created):
		return fmt.Errorf("%w: stream %s was recreated at %v; stop and start this cache to join it", errReplaced, b.name, info.Created)
	case info.State.LastSeq < top:
		return fmt.Errorf("%w: stream %s ends at %d and was at %d: an older copy; bring the newer one back, or delete the stream and restart (tokens keep increasing)", errReplaced, b.name, info.State.LastSeq, top)
	}
	return nil
}

// markerTTL is how long the marker of a deleted key is kept, for watchers.
const markerTTL = 10 * time.Second

// subjectKey encodes any key as one non-empty subject token.
func subjectKey(key string) string {
	return spaceKeys + base64.RawURLEncoding.EncodeToString([]byte(key))
}

// write is one message to a bucket.
type write struct {
	key    string // a subject token
	value  []byte
	purge  bool          // a delete
	ttl    time.Duration // after which the servers remove it; rounded up to seconds
	expect int64         // the subject's last sequence; -1 = any
	room   bool          // pad it, so that its delete marker fits in its place when the bucket is full
}

// pad fills a small message up to the size of the message that deletes it.
var pad = strings.Repeat(".", 128)

// put writes and returns the new sequence. The error is errConflict if expect was wrong, and
// errReplaced if the sequence was already used by the stream.
func (b *bucket) put(ctx context.Context, w write) (uint64, error) {
	seq, err := b.publish(ctx, w)
	if !w.purge || w.expect <= 0 || !errors.Is(err, services.ErrCacheFull) {
		return seq, err
	}
	// The bucket has no room for the marker. Deleting makes the room: the sequence is removed, if
	// it still exists, then the marker is written for watchers, if it fits.
	if err := b.remove(ctx, uint64(w.expect)); err != nil {
		return 0, err
	}
	w.expect = 0
	if seq, err = b.publish(ctx, w); err != nil {
		return 0, nil // deleted, and not marked
	}
	return seq, nil
}

// remove deletes the message with this sequence. The error is errConflict if it no longer exists.
func (b *bucket) remove(ctx context.Context, seq uint64) error {
	ctx, cancel := b.exchange(ctx)
	defer cancel()
	err := b.stream.DeleteMsg(ctx, seq)
	if errors.Is(err, jetstream.ErrMsgNotFound) || errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
		return errConflict
	}
	if err != nil {
		return failed(ctx, err)
	}
	return nil
}

func (b *bucket) publish(ctx context.Context, w write) (uint64, error) {
	ctx, cancel := b.exchange(ctx)
	defer cancel()
	m := &nats.Msg{Subject: b.prefix + w.key, Data: w.value}
	switch {
	case w.purge:
		m.Header = nats.Header{headerOperation: {"PURGE"}, jetstream.MsgRollup: {jetstream.MsgRollupSubject}}
	case w.ttl > 0:
		m.Header = nats.Header{headerTTL: {strconv.FormatInt((w.ttl + time.Millisecond - 1).Milliseconds(), 10)}}
	case w.room:
		m.Header = nats.Header{headerRoom: {pad}}
	}
	opts := make([]jetstream.PublishOpt, 0, 3)
	opts = append(opts, jetstream.WithRetryAttempts(0))
	if w.ttl > 0 {
		opts = append(opts, jetstream.WithMsgTTL(wholeSeconds(w.ttl)))
	}
	if w.expect >= 0 {
		opts = append(opts, jetstream.WithExpectLastSequencePerSubject(uint64(w.expect)))
	}
	if _, err := b.store.sure(ctx); err != nil {
		return 0, err
	}
	top := b.top.Load()
	ack, err := b.js.PublishMsg(ctx, m, opts...)
	if err != nil {
		return 0, failed(ctx, err)
	}
	if ack.Sequence <= top {
		return 0, fmt.Errorf("%w: stream %s gave sequence %d after %d", errReplaced, b.name, ack.Sequence, top)
	}
	b.saw(ack.Sequence)
	return ack.Sequence, nil
}

// wholeSeconds rounds up to the servers' resolution, saturating.
func wholeSeconds(d time.Duration) time.Duration {
	return min((d/time.Second+1), 100*365*24*3600) * time.Second
}

// Headers of a message.
const (
	headerOperation = "KV-Operation"  // DEL or PURGE: a marker of a delete
	headerTTL       = "Millrace-Ttl"  // milliseconds; finer than the servers' own
	headerRoom      = "Millrace-Room" // padding
)

// record is the content of a subject: a value, the marker of a delete (present is false), or
// nothing at all (rev is 0).
type record struct {
	rev     uint64
	present bool
	value   []byte
	ttl     time.Duration // 0 = never
	at      time.Time     // when it was stored, by the servers' clock
}

func newRecord(seq uint64, h nats.Header, value []byte, at time.Time) record {
	if h.Get(headerOperation) != "" || h.Get(jetstream.MarkerReasonHeader) != "" {
		return record{rev: seq}
	}
	r := record{rev: seq, present: true, value: value, at: at}
	if ms, err := strconv.ParseInt(h.Get(headerTTL), 10, 64); err == nil && ms > 0 {
		r.ttl = time.Duration(min(ms, int64(longestTTL))) * time.Millisecond
	}
	return r
}

// get reads a subject's present record from the stream's leader. If the record has expired by the
// servers' clock but the servers, which count in seconds, have not removed it yet, get removes it
// before reporting it as absent: so nobody with another idea of the time can find or replace it
// afterwards.
func (b *bucket) get(ctx context.Context, key string) (record, error) {
	for {
		r, err := b.read(ctx, key)
		if err != nil || r.ttl == 0 || !b.clock.past(r.at.Add(r.ttl)) {
			return r, err
		}
		ask, cancel := b.exchange(ctx)
		info, err := b.stream.Info(ask)
		if err != nil {
			err = failed(ask, err)
		}
		cancel()
		if err != nil {
			return record{}, err
		}
		b.clock.set(info.TimeStamp)
		if info.TimeStamp.Before(r.at.Add(r.ttl)) {
			return r, nil
		}
		seq, err := b.put(ctx, write{key: key, purge: true, ttl: markerTTL, expect: int64(r.rev)})
		if !errors.Is(err, errConflict) {
			return record{rev: seq}, err
		}
	}
}

// read reads on a connection on which the store was verified.
func (b *bucket) read(ctx context.Context, key string) (record, error) {
	ctx, cancel := b.exchange(ctx)
	defer cancel()
	for {
		nth, err := b.store.sure(ctx)
		if err != nil {
			return record{}, err
		}
		m, err := b.stream.GetLastMsgForSubject(ctx, b.prefix+key)
		switch none := errors.Is(err, jetstream.ErrMsgNotFound); {
		case err != nil && !none:
			return record{}, failed(ctx, err)
		case b.store.nth() != nth: // it may have been answered by another store
			continue
		case none:
			return record{}, nil
		}
		b.saw(m.Sequence)
		return newRecord(m.Sequence, m.Header, m.Data, m.Time), nil
	}
}

// errConflict: the subject's last sequence was not the expected one.
var errConflict = errors.New("cluster: changed by another")

// notSent are errors that mean that nothing was sent, or no one was there to receive it.
var notSent = []error{
	nats.ErrConnectionReconnecting, nats.ErrConnectionClosed,
	nats.ErrNoResponders, jetstream.ErrNoStreamResponse, jetstream.ErrStreamNotFound,
}

// translate converts an error of the client library.
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
	if errors.Is(err, nats.ErrReconnectBufExceeded) { // the client library keeps nothing: see Cache.options
		err = nats.ErrConnectionReconnecting
	}
	if errors.Is(err, nats.ErrMaxPayload) {
		return fmt.Errorf("%w: %w", services.ErrCacheKey, err)
	}
	for _, e := range notSent {
		if errors.Is(err, e) {
			return fmt.Errorf("%w: %w", services.ErrCacheDown, err)
		}
	}
	return fmt.Errorf("%w: %w", services.ErrCacheUnknown, err)
}

// Error codes of the servers that the client library has no name for.
const (
	codeWrongLastSequence jetstream.ErrorCode = 10164 // of a replicated stream
	codeStoreFailed       jetstream.ErrorCode = 10077 // maximum bytes exceeded
)
