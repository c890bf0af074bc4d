package dbasync

import (
	"encoding/binary"
	"math"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// An int8 goes into an int whole, or is left to pgx, which refuses it: where an int has 32
// bits 2^32 + 1 is not 1.
func TestAnIntGetsTheWholeNumber(t *testing.T) {
	f := &pgconn.FieldDescription{DataTypeOID: pgtype.Int8OID, Format: fmtBinary}
	for _, want := range []int64{0, -1, math.MaxInt32, math.MinInt32, math.MaxInt32 + 1, 1<<32 + 1, math.MaxInt64, math.MinInt64} {
		got := 7
		ok := scanQuick(f, binary.BigEndian.AppendUint64(nil, uint64(want)), &got)
		if fits := int64(int(want)) == want; ok != fits || ok && int64(got) != want || !ok && got != 7 {
			t.Errorf("%d: got %d, %v", want, got, ok)
		}
	}
}
