package capture

import (
	"errors"
	"fmt"
	"io"

	"millrace/codec"
	"millrace/engine"
)

// Request is a frame that a session's peer sent.
type Request struct {
	Handle uint32
	Frame  []byte // whole, header included
}

// maxRequests is how many bytes of frames Scripts keeps.
const maxRequests = 256 << 20

// ErrNothingToAsk: no handle of a recording was always answered, once for each request.
var ErrNothingToAsk = errors.New("capture: no request of the recording can be repeated: no handle has one answer for each request")

// Scripts reads what can be asked again and again, session by session: the frames of those
// handles that were answered once for each request, by a frame of the same handle, or by an
// ERROR about it. What else was sent is left out.
func (rec *Recording) Scripts(file io.ReaderAt) ([][]Request, error) {
	answered := rec.answered()
	var all [][]Request
	total := 0
	for i := range rec.Sessions {
		var list []Request
		var rest []byte // of a frame in several packets
		for _, x := range rec.Sessions[i].pieces {
			if total += x.size; total > maxRequests {
				return nil, fmt.Errorf("capture: more than %d MiB of requests: record less", maxRequests>>20)
			}
			b := append(rest, make([]byte, x.size)...)
			if _, err := file.ReadAt(b[len(rest):], x.offset); err != nil {
				return nil, fmt.Errorf("capture: %w", err)
			}
			for len(b) > 0 {
				size, missing, err := rec.Codec.Frame(b)
				if err != nil || size == 0 || missing > 0 {
					break
				}
				if h := rec.Codec.Packet(b[:size:size]).Handle(); answered[h] {
					list = append(list, Request{h, b[:size:size]})
				}
				b = b[size:]
			}
			rest = b[:len(b):len(b)]
		}
		if len(list) > 0 {
			all = append(all, list)
		}
	}
	if len(all) == 0 {
		return nil, ErrNothingToAsk
	}
	return all, nil
}

// answered are the handles that were answered once for each request. None of Main 0 is.
func (rec *Recording) answered() map[uint32]bool {
	asked, got := map[uint32]int{}, map[uint32]int{}
	for i := range rec.Sessions {
		s := &rec.Sessions[i]
		if s.incomplete {
			continue
		}
		for a, n := range s.asked {
			asked[a.Handle] += n
		}
		for a, n := range s.want {
			got[a.Handle] += n
		}
	}
	set := map[uint32]bool{}
	for h, n := range asked {
		if main, _ := codec.Split(h); main != engine.SystemMain && got[h] == n {
			set[h] = true
		}
	}
	return set
}

// Refused are the handles that ERRORs in the recording are about.
func (rec *Recording) Refused() map[uint32]bool {
	set := map[uint32]bool{}
	for i := range rec.Sessions {
		for a := range rec.Sessions[i].want {
			if a.Code != 0 {
				set[a.Handle] = true
			}
		}
	}
	return set
}
