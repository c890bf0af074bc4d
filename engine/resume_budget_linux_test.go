package engine

import (
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/codec"
)

// Sessions whose peers are away may hold little each and together more than the budget:
// beside them a peer that reads and acknowledges everything gets on, and they end.
func TestTheAbsentDoNotStarveThePresent(t *testing.T) {
	t.Parallel()
	const body = 50_000
	cfg := resumeConfig("tcp://127.0.0.1:0")
	cfg.MemoryBudget = 16 << 20
	h := newResumable()
	closed := make(chan Reason, 1000)
	h.close = func(_ *Session, why Reason) { closed <- why }
	srv := serve(t, cfg, h)
	for n := 0; srv.budget.Used() <= srv.budget.Limit() && n < 600; n++ {
		p := hello(t, srv)
		p.ackEvery = 1 << 30
		p.ask(1, 1, fmt.Sprint(n)+strings.Repeat("a", body)) // equal ones would be held once
		if p.next() != nil {
			break // the budget is spent, and nothing is read
		}
		p.close()
	}
	p := hello(t, srv)
	p.ackEvery = 1
	began := time.Now()
	for n := range 8 {
		p.ask(1, 1, fmt.Sprint(n)+strings.Repeat("p", body))
	}
	p.want(t, 8)
	if took := time.Since(began); took > glutTime*8/10 {
		t.Errorf("8 answers took %v", took)
	}
	t.Logf("8 answers in %v beside %d bytes of %d", time.Since(began), srv.budget.Used(), srv.budget.Limit())
	waitFor(t, "room", func() bool { return srv.budget.Used() <= srv.budget.Limit()*7/8 })
	for len(closed) > 0 {
		if why := <-closed; why != ReasonMemory && why != ReasonSlowConsumer {
			t.Errorf("a session was closed for %v", why)
		}
	}
}

// A peer whose acknowledgements stand behind requests for which there is no room waits for
// that once, not again and again.
func TestAcknowledgementsBehindRequests(t *testing.T) {
	t.Parallel()
	const requests, body = 1000, 50_000
	srv := serve(t, resumeConfig("tcp://127.0.0.1:0"), newResumable())
	p := hello(t, srv)
	var mu sync.Mutex // of what is written
	write := func(b []byte) {
		mu.Lock()
		defer mu.Unlock()
		p.conn.Write(b)
	}
	acks := make(chan uint64, requests)
	go func() {
		for n := range requests {
			write(frame(1, 1, fmt.Sprint(n)+strings.Repeat("r", body)))
		}
	}()
	go func() { // or nobody would read while the requests are not taken
		for n := range acks {
			write(codec.Packet{Sub: SubAck, Body: binary.BigEndian.AppendUint64(nil, n)}.Append(nil))
		}
	}()
	defer close(acks)
	held := make(chan time.Duration, 1) // the longest time since it was last asked for that a goroutine was held up
	held <- 0
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		for last := time.Now(); ; {
			select {
			case <-stop:
				return
			case <-time.After(10 * time.Millisecond):
			}
			held <- max(<-held, time.Since(last))
			last = time.Now()
		}
	}()
	gaps, last := 0, time.Now()
	for n := uint64(1); n <= requests; {
		f, err := p.r.Next()
		if err != nil {
			t.Fatalf("after %d: %v", n-1, err)
		}
		if f.Main == 0 {
			continue
		}
		gap := time.Since(last) > ackTime*3/4
		if gap {
			time.Sleep(50 * time.Millisecond) // until that goroutine knows
		}
		if pause := <-held; gap && pause < ackTime/8 { // else the machine has its say
			gaps++
		}
		held <- 0
		last = time.Now()
		if n%2 == 0 {
			acks <- n
		}
		n++
	}
	if gaps > 10 { // a busy machine may have some
		t.Errorf("%d waits of a second, want one", gaps)
	}
}
