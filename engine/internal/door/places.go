package door

import (
	"sync/atomic"
	"time"
)

// places are where handshakes compute: a few, and one that waits for its client has none.
//
// A flood of handshakes that nobody means to finish could still keep every processor busy, for those that are shed come
// again at once. So while more are shed than done, a place stays empty for a while after each turn in it: all handshakes
// together then take a tenth of the processors, and the loops have the rest. Clients of many sessions that come back
// together finish their handshakes, and are not slowed down.
type places struct {
	free  chan struct{}
	shed  atomic.Int64 // when one was shed last, in Unix nanoseconds
	waste atomic.Int64 // how many more were shed than done, lately; from 0 to wasteMost
}

const (
	wasteMost  = 256
	wasteFlood = 16          // from here on it is a flood
	wasteAge   = time.Second // without one shed: forgotten
	// restFactor makes a tenth of the processors of twice as many places.
	restFactor = 19
	restMost   = 50 * time.Millisecond
)

// take waits for a place, and returns when it was taken.
func (p *places) take() time.Time {
	p.free <- struct{}{}
	return time.Now()
}

// leave gives up a place that was taken then.
func (p *places) leave(since time.Time) {
	if p.flood() {
		time.Sleep(min(restFactor*time.Since(since), restMost)) // the place rests
	}
	<-p.free
}

func (p *places) flood() bool {
	return p.waste.Load() >= wasteFlood && time.Since(time.Unix(0, p.shed.Load())) < wasteAge
}

// noteShed and noteDone may lose a count to each other: it is an estimate.
func (p *places) noteShed() {
	now := time.Now()
	if now.Sub(time.Unix(0, p.shed.Swap(now.UnixNano()))) >= wasteAge {
		p.waste.Store(0)
	}
	p.waste.Store(min(p.waste.Load()+1, wasteMost))
}

func (p *places) noteDone() {
	if n := p.waste.Load(); n > 0 {
		p.waste.Store(n - 1)
	}
}
