package sched

import (
	"runtime"
	"testing"
)

// A spare worker that is about to end still counts until it has: nobody else of its shard is
// told to end in its place, so every shard keeps the workers it began with. A shard without
// any could take a function while all other workers end.
func TestShardKeepsItsWorkers(t *testing.T) {
	p := New(Config{Workers: 2, Spare: 2, MaxQueue: 8})
	p.shards = newShards(p.cfg, 2)
	p.state.Store(stateRunning) // no goroutine of its own: the test does what they would
	var ends *worker
	for _, s := range p.shards {
		s.base = 1
		for range 2 {
			ends = &worker{shard: s}
			s.workers++
			p.workers = append(p.workers, ends)
		}
	}
	s := p.shards[1]
	s.idle = 2 // those of the other one are busy
	p.retireSpare()
	if s.retire != 1 || s.idle != 1 {
		t.Fatalf("%d told to end, %d idle; want 1 each", s.retire, s.idle)
	}
	if p.sleep(ends) {
		t.Fatal("the spare worker has not ended")
	}
	p.retireSpare() // before it has gone
	if s.retire != 0 || s.idle != 1 {
		t.Errorf("a worker that is no spare one was told to end: %d, %d idle", s.retire, s.idle)
	}
	p.leave(ends, true)
	p.retireSpare()
	if s.workers != 1 || s.retire != 0 {
		t.Errorf("%d workers are left, %d of which should end", s.workers, s.retire)
	}
	p.shards[0].idle = 2
	if p.retireSpare(); p.shards[0].retire != 1 {
		t.Errorf("%d told to end where one too many is left", p.shards[0].retire)
	}
}

// A function is refused only if MaxQueue wait at one moment: not where there was room on one
// shard all the time, now on this one and now on that.
func TestRoomThatMovesIsRoom(t *testing.T) {
	for round := range 200 {
		p := New(Config{Workers: 2, MaxQueue: 2})
		p.shards = newShards(p.cfg, 2)
		p.state.Store(stateRunning) // no worker takes anything but the test
		a, b := p.shards[0], p.shards[1]
		push := func(s *shard) {
			if !s.pushFn(func() {}) {
				t.Fatal("no room")
			}
		}
		a.mu.Lock()
		push(a)
		a.mu.Unlock()
		b.mu.Lock()
		answer := make(chan error)
		go func() { answer <- p.Submit(func() {}) }() // in every other round it begins with the full one
		for range 100 {
			runtime.Gosched()
		}
		a.mu.Lock()
		a.popFn()
		a.mu.Unlock()
		push(b)
		b.mu.Unlock()
		if err := <-answer; err != nil {
			t.Fatalf("round %d: one of two waited, and the next was refused: %v", round, err)
		}
		if err := p.Submit(func() {}); err != ErrOverloaded {
			t.Fatalf("a third one: %v", err)
		}
	}
}

// A function that a manual pool accepts while it is being stopped is run: its workers do not
// end in front of it.
func TestManualPoolKeepsWhatItAccepts(t *testing.T) {
	p := New(Config{Workers: 1, MaxQueue: 1, Manual: make(chan struct{}, 1)})
	p.mu.Lock()
	w := p.newWorker()
	p.mu.Unlock()
	s := p.shards[0]
	s.mu.Lock() // as Submit does, which finds the pool running; then it is stopped
	p.state.Store(stateStopping)
	given := make(chan func())
	go func() { // the worker
		_, fn := p.given(w)
		given <- fn
	}()
	for range 1000 {
		runtime.Gosched()
	}
	s.pushFn(func() {})
	s.mu.Unlock()
	for !p.Give(0) {
		select {
		case <-given:
			t.Fatal("the worker has ended")
		default:
			runtime.Gosched()
		}
	}
	if fn := <-given; fn == nil {
		t.Error("the worker was given nothing")
	}
}

// Where far more waits on one shard than on others, their workers give it every other turn,
// and keep the rest for their own. Among shards that are about as long it is one in 16.
func TestLongShardIsHelped(t *testing.T) {
	for _, tc := range []struct{ long, own, least, most int }{{80, 8, 120, 160}, {10, 8, 15, 25}, {8, 80, 15, 25}} {
		p := New(Config{Workers: 3, MaxQueue: 1})
		p.shards = newShards(p.cfg, 3)
		w := &worker{shard: p.shards[1], victim: 1}
		jobs := map[*Task]uint{}
		for home, n := range []int{tc.long, tc.own, tc.own} {
			for range n {
				j := newJob(nil)
				jobs[&j.Task] = uint(home)
				p.Push(&j.Task, uint(home))
			}
		}
		var turns [3]int
		for range 320 {
			task, _ := p.next(w)
			turns[jobs[task]]++
			p.Push(task, jobs[task])
		}
		helped := turns[0]
		if tc.long < 80 {
			helped += turns[2]
		}
		if helped < tc.least || helped > tc.most || turns[2] < 5 { // nobody is forgotten meanwhile
			t.Errorf("%d on one, %d on others: turns of each %v", tc.long, tc.own, turns)
		}
	}
}
