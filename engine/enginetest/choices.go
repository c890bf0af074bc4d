package enginetest

import (
	"bytes"
	"compress/flate"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
)

// choices makes all random choices of a run: which action is next, how many bytes arrive, whether
// something fails. They are drawn from a seed and recorded, or replayed from a record. After the
// end of a record all choices are 0, which is always the simplest one, so a shorter record with
// more zeros is a simpler run.
type choices struct {
	mu   sync.Mutex
	rng  *rand.Rand // nil: replay
	play []uint32
	rec  []uint32
}

// seeded returns choices drawn from a seed.
func seeded(seed uint64) *choices {
	return &choices{rng: rand.New(rand.NewPCG(seed, 0x6d696c6c72616365))}
}

// played returns choices replayed from a record.
func played(rec []uint32) *choices { return &choices{play: rec} }

// choose returns a number from 0 to n-1.
func (c *choices) choose(n int) int {
	if n <= 1 {
		return 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	v := 0
	switch {
	case c.rng != nil:
		v = c.rng.IntN(n)
	case len(c.rec) < len(c.play):
		v = min(int(c.play[len(c.rec)]), n-1)
	}
	c.rec = append(c.rec, uint32(v))
	return v
}

// chance returns true once in n times.
func (c *choices) chance(n int) bool { return n > 0 && c.choose(max(n, 2)) == max(n, 2)-1 }

// encode encodes a record as text.
func encode(rec []uint32) string {
	var raw []byte
	for _, v := range rec {
		raw = binary.AppendUvarint(raw, uint64(v))
	}
	var b bytes.Buffer
	w, _ := flate.NewWriter(&b, flate.BestCompression) // it fails only for an invalid level
	_, _ = w.Write(raw)
	_ = w.Close()
	return base64.RawURLEncoding.EncodeToString(b.Bytes())
}

// decode is the inverse of encode.
func decode(s string) (rec []uint32, err error) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return nil, fmt.Errorf("enginetest: a record of choices: %w", err)
	}
	raw, err := io.ReadAll(flate.NewReader(bytes.NewReader(b)))
	if err != nil {
		return nil, fmt.Errorf("enginetest: a record of choices: %w", err)
	}
	for len(raw) > 0 {
		v, n := binary.Uvarint(raw)
		if n <= 0 || v > 1<<32-1 {
			return nil, fmt.Errorf("enginetest: a record of choices: bad number at %d bytes before its end", len(raw))
		}
		rec = append(rec, uint32(v))
		raw = raw[n:]
	}
	return rec, nil
}
