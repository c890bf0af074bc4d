package engine

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"millrace/codec"
	"millrace/engine/internal/netio"
)

// However a stream of frames is cut into reads, the handler gets each frame once, whole
// and in order, and a bad length behind them closes with an ERROR behind their answers.
func TestReadsOfAnyCut(t *testing.T) {
	pool := runPool(t, PoolConfig{Workers: 2})
	check(t, func(rt *rapid.T) {
		mode := rapid.SampledFrom(dispatches).Draw(rt, "mode")
		var got [][]byte
		d := newDesk(t, Config{Pool: pool, Dispatch: mode, MaxFrame: 70_000, Limits: Limits{MaxPending: 1 << 20}, Handles: map[uint32]Dispatch{1<<16 | 2: Ordered, 1<<16 | 3: Inline}},
			&funcs{read: func(s *Session, p codec.Packet) {
				got = append(got, bytes.Clone(p.Body)) // the strand's: never two at once
				s.Reply(p, p.Body)
			}})
		s, w := d.open(-1)
		d.settleAll()
		var stream []byte
		var want [][]byte
		for i := range rapid.IntRange(0, 12).Draw(rt, "frames") {
			n := rapid.SampledFrom([]int{0, 1, 7, 500, 513, 4096, 65_000, 69_996}).Draw(rt, "size")
			body := bytes.Repeat([]byte{byte(i + 1)}, n)
			want = append(want, body)
			stream = codec.Packet{Main: 1, Sub: uint16(rapid.IntRange(1, 3).Draw(rt, "sub")), Body: body}.Append(stream)
		}
		answers := bytes.Clone(stream)
		bad := rapid.Bool().Draw(rt, "bad")
		if bad {
			length := rapid.SampledFrom([]uint32{0, 3, 70_001, 1 << 31, 1<<32 - 1}).Draw(rt, "length")
			stream = append(binary.BigEndian.AppendUint32(stream, length), "whatever comes behind it"...)
		} else { // half a frame, which is nothing
			stream = append(stream, 0, 0, 0, 20, 1)[:len(stream)+rapid.IntRange(0, 5).Draw(rt, "half")]
		}
		for len(stream) > 0 {
			n := min(len(stream), rapid.SampledFrom([]int{1, 2, 3, 5, 100, 4000, 65_536}).Draw(rt, "cut"))
			if n < 10 && len(stream) > 2000 && rapid.Bool().Draw(rt, "more") {
				n = 1000 // or it takes for ever
			}
			d.l.received(s, bytes.Clone(stream[:n]))
			stream = stream[n:]
			if rapid.Bool().Draw(rt, "turn") {
				d.turns()
			}
		}
		d.settleAll()
		if !slices.EqualFunc(got, want, bytes.Equal) {
			rt.Fatalf("%d frames handled, want %d", len(got), len(want))
		}
		if !bytes.HasPrefix(w.got, answers) {
			rt.Fatalf("%d bytes of answers, want %d first: % x", len(w.got), len(answers), w.got[:min(len(w.got), 64)])
		}
		rest := w.got[len(answers):]
		if bad {
			p, n, _, err := codec.Default().Decode(rest)
			if err != nil || n != len(rest) || p.Sub != SubError || p.Body[1] != byte(CodeBadFrame) || !w.finned {
				rt.Fatalf("behind the answers: %v, %v, FIN %v", p, err, w.finned)
			}
		} else if len(rest) > 0 || w.finned || !s.Connected() {
			rt.Fatalf("behind the answers: %q, FIN %v", rest, w.finned)
		}
		d.l.disconnected(s, netio.EndFIN)
		d.settleAll()
		if n, b := d.table.count(), unaccounted(d.Server); n != 0 || b != 0 {
			rt.Fatalf("%d sessions, %d bytes left", n, b)
		}
	})
}

// What a header claims costs nothing: memory grows with what has come of a frame, and a
// bad length costs less than a kilobyte.
func TestClaimsCostNothing(t *testing.T) {
	d := newDesk(t, Config{MaxFrame: 16 << 20}, &funcs{})
	for _, come := range []int{4, 100, 5000, 200_000} {
		s, _ := d.open(-1)
		d.settleAll()
		b := append([]byte{0, 0xff, 0xff, 0xff}, make([]byte, come-4)...)
		for i := 0; i < len(b); i += 4096 {
			d.l.received(s, b[i:min(i+4096, len(b))])
		}
		if held := d.Stats().Memory; held > max(1<<10, 4*come) {
			t.Errorf("%d bytes held for %d that came of a frame of 16 MiB", held, come)
		}
		d.l.disconnected(s, netio.EndReset)
		d.settleAll()
		if held := d.Stats().Memory; held != 0 {
			t.Errorf("%d bytes held at the end", held)
		}
	}
	s, _ := d.open(-1)
	d.settleAll()
	per := testing.AllocsPerRun(100, func() {
		s.rd.input = inputFrames
		d.l.received(s, []byte{0xff, 0xff, 0xff, 0xff})
	})
	if per > 8 {
		t.Errorf("a bad length costs %v allocations", per)
	}
	d.settleAll()
}
