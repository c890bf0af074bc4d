package hostile

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// trickle writes n frames to each client, one by one and to all in turn, so that most
// arrive alone, as far as time allows. A client whose server takes no more is left out from there on. It returns
// how many each wrote.
func trickle(clients []*client, n int, f []byte, within time.Duration) []int {
	sent := make([]int, len(clients))
	full := make([]bool, len(clients))
	end := time.Now().Add(within)
	for i := 0; i < n && time.Now().Before(end); i++ {
		for i, c := range clients {
			if full[i] {
				continue
			}
			if full[i] = c.put(f, 20*time.Millisecond) != nil; !full[i] {
				sent[i]++
			}
		}
	}
	return sent
}

// Requests of 8 bytes that arrive one by one and wait behind a handler that sleeps cost
// the server about what it counts them for, and each is answered in the end.
func TestTinyRequestsThatWaitCostWhatTheyAreCountedFor(t *testing.T) {
	for _, c := range []struct {
		name        string
		args        []string
		each, bound int // requests of a client; bytes that may be held
	}{
		{"budget=8MiB", []string{"--memory-budget=8MiB"}, 12_000, 8 * mib},
		// 40 clients, 12.5 MiB of frames, and no limit comes near: they are all held.
		{"defaults", nil, 40_960, 40 * 40_960 * 8},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if c.args == nil && !*long {
				c.each, c.bound = 12_000, 40*12_000*8
			}
			tinyRequests(t, c.args, c.each, c.bound)
		})
	}
}

func tinyRequests(t *testing.T, args []string, each, held int) {
	const clients = 40
	nap := 5 * time.Second
	if *long {
		nap = 20 * time.Second
	}
	s := serve(t, append(args, "--fin-timeout=1m")...)
	before := s.fds()
	m := s.watch()
	all := s.dialMany(clients)
	for _, c := range all {
		if err := c.send(1, 4, fmt.Sprintf(`{"ms":%d}`, nap.Milliseconds())); err != nil {
			t.Fatal(err)
		}
	}
	from := time.Now()
	sent := trickle(all, each, wire(nil, 1, 1, ""), nap-time.Second)
	total := 0
	for _, n := range sent {
		total += n
	}
	t.Logf("%d clients wrote %d requests of 8 bytes, %s, in %v", clients, total, size(total*8), time.Since(from).Round(time.Millisecond))
	m.within(held)
	var wg sync.WaitGroup
	for i, c := range all {
		wg.Go(func() {
			// What a torn write left of a frame ends here too.
			c.fin()
			got, err := c.rest(30 * time.Second)
			if timedOut(err) || len(got) < sent[i]+1 {
				t.Errorf("client %d: %d answers to %d requests, then %v", i, len(got), sent[i]+1, err)
			}
		})
	}
	wg.Wait()
	s.settle(before, 10*time.Second)
}

// Clients that each send a part of a large frame and stop cost no more than the budget,
// whether it is most of the frame or nearly nothing, and the others are served meanwhile,
// broadcasts included.
func TestPartialFramesAreHeldWithinTheBudget(t *testing.T) {
	for _, c := range []struct{ clients, part int }{{64, 900 * 1000}, {400, 1}} {
		t.Run(fmt.Sprintf("clients=%d,part=%d", c.clients, c.part), func(t *testing.T) {
			t.Parallel()
			partialFrames(t, c.clients, c.part)
		})
	}
}

func partialFrames(t *testing.T, attackers, part int) {
	const frameSize = 1000 * 1000
	s := serve(t, "--memory-budget=4MiB", "--max-frame=1MiB")
	m := s.watch()
	good := s.dial()
	good.want(1, 1, "here", "here")
	begun := append(header(nil, uint32(frameSize)), 0, 1, 0, 1)
	begun = append(begun, make([]byte, part)...)
	var wg sync.WaitGroup
	var taken atomic.Int64
	for range attackers {
		c := s.dialSmall(4 * kib)
		wg.Go(func() {
			c.SetWriteDeadline(time.Now().Add(2 * time.Second))
			n, _ := c.Write(begun)
			taken.Add(int64(n))
		})
	}
	refused, slowest := 0, time.Duration(0)
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); {
		from := time.Now()
		good.want(1, 1, "still", "still")
		slowest = max(slowest, time.Since(from))
		if f, err := good.call(time.Minute, 1, 2, "to all"); err != nil {
			t.Fatalf("broadcast: %v", err)
		} else if code, _ := f.errorCode(); code != 0 {
			refused++
		}
		<-time.After(50 * time.Millisecond)
	}
	wg.Wait()
	t.Logf("%s of %d partial frames left the clients; slowest echo %v; %d broadcasts refused",
		size(int(taken.Load())), attackers, slowest.Round(time.Millisecond), refused)
	m.within(4 * mib)
	if refused > 0 {
		t.Errorf("%d broadcasts of a client that does no harm were refused", refused)
	}
	if slowest > 8*time.Second {
		t.Errorf("an echo took %v", slowest)
	}
}

// Frames that don't fit into the budget together are all received in the end, if their
// clients only go on sending: those that hold a part of one don't wait for each other, nor
// for long for clients that stopped in the middle of theirs.
func TestSlowUploadsOfLargeFramesAllEnd(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ uploaders, stopped int }{{12, 0}, {4, 8}} {
		t.Run(fmt.Sprintf("uploaders=%d,stopped=%d", c.uploaders, c.stopped), func(t *testing.T) {
			t.Parallel()
			slowUploads(t, c.uploaders, c.stopped)
		})
	}
}

func slowUploads(t *testing.T, uploaders, stopped int) {
	const body = 1000 * 1000
	s := serve(t, "--memory-budget=4MiB", "--max-frame=1MiB", "--frame-timeout=3s")
	m := s.watch()
	for range stopped {
		c := s.dial()
		go c.put(wire(nil, 1, 1, strings.Repeat("s", body))[:body*9/10], time.Minute)
	}
	var wg sync.WaitGroup
	var refusals atomic.Int64
	from := time.Now()
	end := from.Add(40 * time.Second)
	for i := range uploaders {
		wg.Go(func() {
			for !upload(s, body, end) {
				refusals.Add(1)
				if time.Now().After(end) {
					t.Errorf("uploader %d is not through after 40 s", i)
					return
				}
				<-time.After(100 * time.Millisecond)
			}
		})
	}
	wg.Wait()
	t.Logf("%d uploads of %s took %v; refused and tried again: %d", uploaders, size(body), time.Since(from).Round(time.Millisecond), refusals.Load())
	m.within(4 * mib)
}

// upload sends one large echo in pieces and says whether it came back.
func upload(s *server, body int, end time.Time) bool {
	c, err := s.try(0)
	if err != nil {
		return false
	}
	defer c.Close()
	b := wire(nil, 1, 1, strings.Repeat("u", body))
	for len(b) > 0 {
		n := min(len(b), 50_000)
		if c.put(b[:n], time.Until(end)) != nil {
			break // refused; or not in time
		}
		b = b[n:]
		<-time.After(25 * time.Millisecond)
	}
	f, err := c.next(time.Until(end))
	return err == nil && f.is(1, 1) && len(f.body) == body
}

// Clients that read nothing of what is sent to all and to their group cost no more than
// the budget, however many they are and however small the frames, and those that read get
// everything in its order.
func TestReceiversThatDoNotReadAreHeldWithinTheBudget(t *testing.T) {
	for _, c := range []struct{ clients, budget, sends, body int }{
		{200, 16 * mib, 960, 1000},
		{200, 16 * mib, 12_000, 10},
		{900, 32 * mib, 960, 1000},
	} {
		t.Run(fmt.Sprintf("clients=%d,body=%d", c.clients, c.body), func(t *testing.T) {
			deafReceivers(t, c.clients, c.budget, c.sends, c.body)
		})
	}
}

func deafReceivers(t *testing.T, clients, budget, sends, body int) {
	s := serve(t, fmt.Sprintf("--memory-budget=%d", budget), "--first-frame-timeout=0", smallSend)
	before := s.fds()
	m := s.watch()
	for _, c := range s.dialMany(clients) {
		if err := c.send(1, 5, `{"group":"g"}`); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.reset)
	}
	var good []*receiver
	for range 4 {
		c := s.dial()
		c.want(1, 5, `{"group":"g"}`, "members")
		good = append(good, receive(c, false))
	}
	refused, answered := 0, 0
	from := time.Now()
	sender := good[0]
	outcome := func() {
		f, open := <-sender.answers
		if answered++; !open {
			t.Fatalf("the sender is closed after %d sends: %v", answered, sender.end())
		}
		if f.is(0, 3) {
			refused++
		}
	}
	for i := range sends {
		text := fmt.Sprintf("%06d", i+1) + strings.Repeat(".", body)
		if i%2 == 0 {
			sender.send(1, 2, text)
		} else {
			sender.send(1, 7, `{"group":"g","data":"`+text+`"}`)
		}
		if i-answered >= 16 {
			outcome()
		}
	}
	for answered < sends {
		outcome()
	}
	t.Logf("%d sends of %d bytes in %v, %d refused", sends, body, time.Since(from).Round(time.Millisecond), refused)
	m.within(budget)
	if refused > sends/2 {
		t.Errorf("%d of %d sends were refused: those who read wait for those who don't", refused, sends)
	}
	for i, r := range good {
		if !poll(time.Minute, func() bool { return r.seen() >= sends-refused }) || r.err() != nil {
			t.Errorf("receiver %d got %d of %d: %v, %v", i, r.seen(), sends-refused, r.err(), r.end())
		}
		r.Close()
	}
	t.Logf("%d of %d that don't read are still connected", max(s.fds()-before-len(good), 0), clients)
}

// A receiver that falls behind and catches up again and again is no slow one, however
// long that goes on.
func TestReceiverThatCatchesUpIsNotClosed(t *testing.T) {
	t.Parallel()
	s := serve(t, smallSend)
	slow, sender := s.dialSmall(4*kib), s.dial()
	slow.want(1, 5, `{"group":"g"}`, "members")
	pushes := 0
	for from := time.Now(); time.Since(from) < 12*time.Second; {
		for range 350 { // a third of what it may leave unread
			pushes++
			f, err := sender.call(time.Minute, 1, 7, fmt.Sprintf(`{"group":"g","data":"%06d%s"}`, pushes, strings.Repeat("c", 1000)))
			if err != nil || !f.is(1, 7) {
				t.Fatalf("send %d: got %v, %v", pushes, f, err)
			}
		}
		<-time.After(900 * time.Millisecond)
		for last := 0; last < pushes; {
			f, err := slow.next(time.Minute)
			if err != nil {
				t.Fatalf("after %v and push %d of %d: %v", time.Since(from).Round(time.Millisecond), last, pushes, err)
			}
			last = number(f)
		}
	}
	t.Logf("%d pushes", pushes)
}

// Clients that never read their answers don't take the budget from the others for good:
// what is sent to all, and what a timer sends, reaches those who read, and those who leave
// the budget full are closed within 20 s.
func TestAnswersThatNobodyReadsDoNotHoldTheBudgetForEver(t *testing.T) {
	t.Parallel()
	const budget, offenders = 4 * mib, 8
	s := serve(t, "--memory-budget=4MiB", smallSend)
	m := s.watch()
	good := s.dial()
	before := s.fds()
	for range offenders {
		c := s.dialSmall(4 * kib)
		go func() {
			flood := repeat(32, 1, 1, strings.Repeat("e", 32*kib))
			for c.put(flood, time.Minute) == nil {
			}
		}()
	}
	good.want(2, 1, `{"id":1,"ms":100,"repeat":0}`, `{"id":1}`)
	r := receive(good, true)
	from := time.Now()
	refused, worst, closed := 0, time.Duration(0), 0
	for ; time.Since(from) < 20*time.Second; <-time.After(100 * time.Millisecond) {
		good.send(1, 2, "to all")
		f := <-r.answers
		if f.is(0, 0) {
			t.Fatalf("the client that reads is closed: %v", r.end())
		}
		if f.is(0, 3) {
			refused, worst = refused+1, time.Since(from)
		}
		if closed = before + offenders - s.fds(); closed > 0 && time.Since(from)-worst > 3*time.Second {
			break
		}
	}
	t.Logf("after %v: %d broadcasts refused, the last one after %v; %d of %d offenders closed; %d firings of a timer arrived",
		time.Since(from).Round(time.Second), refused, worst.Round(100*time.Millisecond), max(closed, 0), offenders, r.seen())
	m.within(budget)
	if worst > 17*time.Second {
		t.Errorf("broadcasts are still refused %v after the offenders came", worst.Round(time.Second))
	}
	if err := r.err(); err != nil {
		t.Error(err)
	}
	if closed == 0 {
		t.Errorf("the budget is full for 20 s and nobody is closed")
	}
}

// What a load took is given back when its clients have gone.
func TestMemoryIsGivenBackAfterALoad(t *testing.T) {
	t.Parallel()
	const budget = 16 * mib
	s := serve(t, fmt.Sprintf("--memory-budget=%d", budget), "--first-frame-timeout=0", smallSend)
	before := s.fds()
	m := s.watch()
	all := s.dialMany(200)
	for _, c := range all {
		if err := c.put(repeat(4, 1, 1, strings.Repeat("m", 60*kib)), time.Second); err != nil {
			if !timedOut(err) {
				t.Fatal(err)
			}
		}
	}
	good := s.dial()
	for i := range 900 {
		if _, err := good.call(time.Minute, 1, 2, strings.Repeat("p", kib)); err != nil {
			t.Fatalf("broadcast %d: %v", i, err)
		}
	}
	peak := m.peak()
	for _, c := range all {
		c.reset()
	}
	good.Close()
	s.settle(before, 10*time.Second)
	t.Logf("RSS before %s, peak %s", size(m.start), size(peak))
	m.givenBack()
}
