package codec

import "testing"

// A byte that MayBegin excludes begins no frame, and each that it allows begins one.
func TestMayBeginIsWhatFramesBeginWith(t *testing.T) {
	for _, l := range []Layout{{}, {LengthWidth: 2}, {LittleEndian: true}, {LittleEndian: true, LengthWidth: 2, LengthAdjust: -2},
		{Prefix: []byte("GET")}, {LengthAdjust: -4}, {LengthWidth: 2, LengthAdjust: 300}} {
		for _, limit := range []int{10, 300, 5000, 60000} {
			c, err := New(l, limit)
			if err != nil {
				continue
			}
			var begins [256]bool
			for body := 0; body <= c.MaxBody(); body++ {
				b, err := c.Append(nil, Packet{Body: make([]byte, body)})
				if err != nil {
					t.Fatal(err)
				}
				begins[b[0]] = true
			}
			for i, want := range begins {
				if got := c.MayBegin(byte(i)); got != want {
					t.Errorf("%+v, limit %d, byte %#02x: got %v, want %v", l, limit, i, got, want)
				}
			}
		}
	}
}
