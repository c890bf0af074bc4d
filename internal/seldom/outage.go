package seldom

import (
	"sync"
	"time"
)

const (
	// Gather is how long the first line of an outage waits for others to notice it too.
	Gather = 200 * time.Millisecond
	// Remind is the time between two lines of one outage.
	Remind = 30 * time.Second
)

// Outage limits the log lines about something that is away and that many notice, such as a database
// and its connections: one line when it is lost, a reminder every 30 s while it is away, and one
// line when it is back. The first waits for 200 ms, so that it can say how many have noticed.
//
// Lost and Back are set before the first use. They are called one at a time, and may not call the
// Outage. The methods may be called from any goroutine.
type Outage struct {
	// Lost writes a line: n failures since the last one, err the newest of them. away is how long
	// it has been away; first is true for the line that begins an outage.
	Lost func(n int, err error, away time.Duration, first bool)
	// Back writes the line of the end. If it was back before Lost was due, err is why it was away,
	// otherwise nil. It may be nil.
	Back func(away time.Duration, err error)

	say sync.Mutex // held during calls of Lost and Back, taken before mu

	mu    sync.Mutex
	down  bool        // guarded by mu, as are all below
	told  bool        // Lost has been called for this outage
	since time.Time   // the first failure
	n     int         // failures since the last line
	err   error       // the newest
	timer *time.Timer // of the next line
}

// Fail notes a failure.
func (o *Outage) Fail(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.n++
	o.err = err
	if o.down {
		return
	}
	o.down, o.told, o.since = true, false, time.Now()
	o.timer = time.AfterFunc(Gather, o.tell)
}

// tell writes a line if the outage lasts.
func (o *Outage) tell() {
	o.say.Lock()
	defer o.say.Unlock()
	o.mu.Lock()
	if !o.down {
		o.mu.Unlock()
		return
	}
	n, err, away, first := o.n, o.err, time.Since(o.since), !o.told
	o.n, o.told = 0, true
	o.timer.Reset(Remind)
	o.mu.Unlock()
	o.Lost(n, err, away, first)
}

// Fine notes that nothing is away any more.
func (o *Outage) Fine() {
	o.say.Lock()
	defer o.say.Unlock()
	o.mu.Lock()
	if !o.down {
		o.mu.Unlock()
		return
	}
	o.timer.Stop()
	away, err, told := time.Since(o.since), o.err, o.told
	o.down, o.n, o.err = false, 0, nil
	o.mu.Unlock()
	if o.Back == nil {
		return
	}
	if told {
		err = nil
	}
	o.Back(away, err)
}

// Down reports whether something is away.
func (o *Outage) Down() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.down
}

// End ends the outage without a line, and waits for one that is being written. It is for what is
// stopped while something is away; a later Fail begins anew.
func (o *Outage) End() {
	o.say.Lock()
	defer o.say.Unlock()
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.down {
		o.timer.Stop()
	}
	o.down, o.n, o.err = false, 0, nil
}
