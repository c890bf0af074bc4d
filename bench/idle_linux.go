package bench

import (
	"errors"
	"fmt"
	"time"
)

// Memory is read when it has stopped moving: steadyFor equal readings, or at the deadline.
const (
	memoryStep = 100 * time.Millisecond
	steadyFor  = 5
	memoryWait = 8 * time.Second
)

// fewestFiles a server holds beside its connections: three standard ones and a listener. What it held
// before is no better a bound: a connection that it was just closing then is gone now.
const fewestFiles = 4

// noteRest reads the server's memory before any connection.
func (m *measurement) noteRest() error {
	if m.work.Kind != Idle {
		return nil
	}
	if m.srv.pid == 0 {
		return errSkipped{"memory needs the process id of the target"}
	}
	rss, err := steadyMemory(m.srv.pid)
	if err != nil {
		return err
	}
	m.restRSS = rss
	return nil
}

// idle reads the memory with every connection open, before and after one echo on each.
func (m *measurement) idle(run *Run) error {
	if err := m.awaitAccepted(); err != nil {
		return m.blame(err)
	}
	before, err := steadyMemory(m.srv.pid)
	if err != nil {
		return m.blame(err)
	}
	if err := m.tell(cmdEcho); err != nil {
		return m.blame(err)
	}
	for _, g := range m.gens {
		if err := g.await(lineEchoed, echoWait); err != nil {
			return m.blame(err)
		}
	}
	after, err := steadyMemory(m.srv.pid)
	if err != nil {
		return m.blame(err)
	}
	if err := m.tell(cmdEnd); err != nil {
		return m.blame(err)
	}
	own, ok := m.selfStats()
	if ok {
		run.Runtime = &Runtime{Goroutines: own.Goroutines, HeapAtEndOfBytes: own.HeapBytes}
	}
	n := float64(m.work.Conns)
	run.Memory = &Memory{RSS: after, PerIdle: float64(before-m.restRSS) / n, PerEchoed: float64(after-m.restRSS) / n}
	for _, g := range m.gens {
		res, err := g.result(resultWait)
		if err != nil {
			return m.blame(err)
		}
		run.Verified += res.Verified
	}
	run.Messages = uint64(m.work.Conns)
	run.Generator.Processes = len(m.gens)
	return nil
}

// awaitAccepted waits until the server holds a descriptor for each connection: connect(2) returns
// before accept(2).
func (m *measurement) awaitAccepted() error {
	deadline := time.Now().Add(connectWait)
	for time.Now().Before(deadline) {
		n, err := openFiles(m.srv.pid)
		if err != nil {
			return err
		}
		if n >= fewestFiles+m.work.Conns {
			return nil
		}
		time.Sleep(20 * time.Millisecond) // there is no event to wait for in another process
	}
	return errors.New("bench: the server did not accept every connection")
}

// steadyMemory is a process's RSS once it has stopped moving.
func steadyMemory(pid int) (int64, error) {
	deadline := time.Now().Add(memoryWait)
	last, same := int64(-1), 0
	for {
		rss, err := residentBytes(pid)
		if err != nil {
			return 0, err
		}
		if diff := rss - last; diff > 64<<10 || diff < -(64<<10) {
			last, same = rss, 0
		} else if same++; same >= steadyFor {
			return rss, nil
		}
		if time.Now().After(deadline) {
			return 0, fmt.Errorf("bench: the memory of process %d did not settle in %v", pid, memoryWait)
		}
		time.Sleep(memoryStep) // a sample, not a wait for something
	}
}
