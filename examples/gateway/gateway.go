package main

import (
	"encoding/binary"
	"errors"
	"strings"
	"sync"
	"time"

	"millrace/codec"
	"millrace/engine"
)

// The types of frames.
const (
	typeHello   = 1 // from a device, first: its serial number
	typeReading = 2 // from a device: a temperature, i16 in tenths
	typeSet     = 3 // to a device: u8 command number, then the command
	typeDone    = 4 // from a device: u8 command number, then what came of it
)

// gateway passes commands to devices and returns their answers. It is the engine's handler.
type gateway struct {
	mu      sync.Mutex
	devices map[string]*engine.Session // guarded by mu; by serial number
}

// device is a session's Value: only its own callbacks touch it, so it has no lock.
type state struct {
	serial  string
	reading int16
	next    byte
	waits   map[byte]func(answer string, err error) // for the commands under way
}

// errors of commands.
var (
	errAway = errors.New("gateway: no such device")
	errBusy = errors.New("gateway: too many commands for the device")
	errGone = errors.New("gateway: the device is disconnected")
	errLate = errors.New("gateway: no answer")
)

const (
	maxWaits = 8
	patience = 5 * time.Second
)

func (g *gateway) OnSocketAccept(s *engine.Session) {
	s.SetValue(&state{waits: map[byte]func(string, error){}})
}

func (g *gateway) OnSocketRead(s *engine.Session, p codec.Packet) {
	d := s.Value().(*state)
	switch {
	case p.Sub == typeHello && d.serial == "" && len(p.Body) > 0 && len(p.Body) <= 32:
		d.serial = strings.ToUpper(string(p.Body))
		s.SetTag(d.serial) // what /sessions and the log call it
		g.mu.Lock()
		before := g.devices[d.serial]
		g.devices[d.serial] = s
		g.mu.Unlock()
		if before != nil { // it has come again, and its old connection isn't known to be dead yet
			_ = before.Close()
		}
	case d.serial == "":
		_ = s.Close()
	case p.Sub == typeReading && len(p.Body) == 2:
		d.reading = int16(binary.LittleEndian.Uint16(p.Body))
	case p.Sub == typeDone && len(p.Body) > 0:
		d.done(p.Body[0], string(p.Body[1:]), nil)
	default:
		_ = s.Close()
	}
}

func (g *gateway) OnSocketClose(s *engine.Session, _ engine.Reason) {
	d := s.Value().(*state)
	for n := range d.waits {
		d.done(n, "", errGone)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.devices[d.serial] == s {
		delete(g.devices, d.serial)
	}
}

func (d *state) done(n byte, answer string, err error) {
	if fn := d.waits[n]; fn != nil {
		delete(d.waits, n)
		fn(answer, err)
	}
}

func (g *gateway) find(serial string) *engine.Session {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.devices[strings.ToUpper(serial)]
}

// command sends a command to a device and blocks until its answer arrives. It may be called from any
// goroutine; the device's state is used in its session's order only.
func (g *gateway) command(serial, text string) (string, error) {
	type outcome struct {
		answer string
		err    error
	}
	came := make(chan outcome, 1)
	s := g.find(serial)
	if s == nil {
		return "", errAway
	}
	var n byte // set before it is used: both run in the session's order
	err := s.Submit(func() {
		d := s.Value().(*state)
		if len(d.waits) >= maxWaits {
			came <- outcome{err: errBusy}
			return
		}
		for d.next++; d.waits[d.next] != nil; d.next++ {
		}
		n = d.next
		d.waits[n] = func(answer string, err error) { came <- outcome{answer, err} }
		if err := s.Push(device, typeSet, append([]byte{n}, text...)); err != nil {
			d.done(n, "", err)
		}
	})
	if err != nil {
		return "", errGone
	}
	select {
	case o := <-came:
		return o.answer, o.err
	case <-time.After(patience):
		_ = s.Submit(func() { s.Value().(*state).done(n, "", errLate) })
		return "", errLate
	}
}

// reading returns the last temperature of a device, in tenths of a degree.
func (g *gateway) reading(serial string) (int16, error) {
	s := g.find(serial)
	if s == nil {
		return 0, errAway
	}
	came := make(chan int16, 1)
	if err := s.Submit(func() { came <- s.Value().(*state).reading }); err != nil {
		return 0, errGone
	}
	select {
	case v := <-came:
		return v, nil
	case <-s.Context().Done():
		return 0, errGone
	}
}
