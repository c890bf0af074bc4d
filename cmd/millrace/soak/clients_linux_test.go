package soak

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"millrace/codec"
)

// population lets all kinds of clients in.
func (s *soak) population() {
	for _, door := range doors {
		s.join("asks by "+door, 2, func(v *visit) { v.asks(door) })
		s.join("comes and goes by "+door, 1, func(v *visit) { v.comesAndGoes(door) })
	}
	s.join("timers", 2, (*visit).timers)
	s.join("tells the news", 1, (*visit).tellsNews)
	s.join("never reads", 3, (*visit).neverReads)
	s.join("reads slowly", 3, (*visit).readsSlowly)
	s.join("sends no frames", 2, (*visit).sendsNoFrames)
	s.join("stops half-way", 3, (*visit).stopsHalfWay)
	s.join("bumps a row", 4, (*visit).bumps)
	s.join("counts in a key", 3, (*visit).countsInAKey)
	for i := range pairs {
		p := s.newPair(i)
		s.join("tells a member that resumes", 1, p.tells)
		s.join("is told and resumes", 1, p.listens)
	}
}

// asks sends bursts of echoes and wants each answer in its place.
func (v *visit) asks(door string) {
	w, err := v.dial(door, 0)
	if err != nil {
		return
	}
	defer w.Close()
	leave := v.crowd.add(w.LocalAddr())
	defer leave()
	for n := 0; !w.told && !v.over() && n < 2000; {
		burst := 1 + v.r.IntN(32)
		body := strings.Repeat("e", v.r.IntN(1500))
		from := n
		text := func(i int) string { return fmt.Sprintf("%d %s", i, body) }
		v.requests.Add(uint64(burst))
		if err := w.put(frames(burst, func(i int) codec.Packet { return codec.Packet{Main: 1, Sub: 1, Body: []byte(text(from + i))} })); err != nil {
			w.ended(burst-w.outcomes(burst, from, text), burst, err)
			return
		}
		for ; n < from+burst; n++ {
			if err := w.wantEcho(text(n)); err != nil {
				w.ended(from+burst-n, burst, err)
				return
			}
		}
		v.pause(v.some(20 * time.Millisecond))
	}
	v.end("left")
}

// wantEcho reads the outcome of an echo: its answer, or an ERROR in its place.
func (w *wire) wantEcho(text string) error {
	p, err := w.next(patience)
	if err != nil {
		return err
	}
	code, handle := errorOf(p)
	switch {
	case handle == 1<<16|1:
		w.v.refuse(code)
	case p.Main == 1 && p.Sub == 1 && string(p.Body) == text:
		w.v.answers.Add(1)
	default:
		w.v.violation("%s: got %d/%d %.60q, want the answer %.60q", w.v.name, p.Main, p.Sub, p.Body, text)
		return errors.New("a wrong answer")
	}
	return nil
}

// outcomes counts the outcomes that still come behind a failed write.
func (w *wire) outcomes(most, from int, text func(int) string) (n int) {
	for n < most && w.wantEcho(text(from+n)) == nil {
		n++
	}
	return n
}

// comesAndGoes asks once or not at all, and leaves in one way or another.
func (v *visit) comesAndGoes(door string) {
	w, err := v.dial(door, 0)
	if err != nil {
		return
	}
	defer w.Close()
	how := v.r.IntN(4)
	if how > 0 {
		text := fmt.Sprint("visit ", v.visits.Load())
		v.requests.Add(1)
		if err = w.send(1, 1, text); err == nil {
			err = w.wantEcho(text)
		}
		if err != nil {
			w.ended(1, 1, err)
			return
		}
	}
	if tcp, ok := w.Conn.(*net.TCPConn); ok && how == 2 {
		_ = tcp.SetLinger(0)
	}
	v.end("left")
}

// every is the period of the timers.
const every = 25 * time.Millisecond

// timers has a timer fire again and again, never early and counted one by one.
func (v *visit) timers() {
	w, err := v.dial("tcp", 0)
	if err != nil {
		return
	}
	defer w.Close()
	last, began := 0, time.Now()
	w.push = func(p codec.Packet) {
		var f struct{ N int }
		if err := json.Unmarshal(p.Body, &f); err != nil || f.N != last+1 {
			v.violation("timers: got %.60q behind firing %d: %v", p.Body, last, err)
		}
		if took := time.Since(began); took < time.Duration(f.N)*every {
			v.violation("timers: firing %d after %v, due after %v", f.N, took, time.Duration(f.N)*every)
		}
		last = f.N
	}
	request := codec.Packet{Main: 2, Sub: 1, Body: fmt.Appendf(nil, `{"id":1,"ms":%d,"repeat":0}`, every.Milliseconds())}
	for !w.told && !v.over() && time.Since(began) < 10*time.Second {
		v.requests.Add(1)
		err := w.put(request.Append(nil))
		if err == nil {
			request, err = w.next(patience)
		}
		if err != nil {
			w.ended(1, 1, err)
			return
		}
		v.answers.Add(1)
		if code, handle := errorOf(request); code != 0 {
			v.violation("timers: ERROR %d about %d/%d", code, handle>>16, handle&0xffff)
		}
		request = codec.Packet{Main: 1, Sub: 1, Body: []byte("still here")}
		v.pause(every / 2)
	}
	v.end("left")
}

// tellsNews sends much to the group of those who read it badly.
func (v *visit) tellsNews() {
	w, err := v.dial("unix", 0)
	if err != nil {
		return
	}
	defer w.Close()
	body := `{"group":"news","data":"` + strings.Repeat("n", 4<<10) + `"}`
	for !w.told && !v.over() {
		v.requests.Add(1)
		err := w.send(1, 7, body)
		if err == nil {
			_, err = w.next(patience)
		}
		if err != nil {
			w.ended(1, 1, err)
			return
		}
		v.answers.Add(1)
		v.pause(2 * time.Millisecond)
	}
	v.end("left")
}

// neverReads joins the news and doesn't read them, until it is thrown out.
func (v *visit) neverReads() {
	door := doors[v.r.IntN(len(doors))]
	w, err := v.dial(door, 4<<10)
	if err != nil {
		return
	}
	defer w.Close()
	for w.send(1, 5, `{"group":"news"}`) == nil && !v.over() { // the write fails when the server has reset
		v.pause(100 * time.Millisecond)
	}
	v.end("thrown out, or left")
}

// readsSlowly asks for much and fetches it a little at a time.
func (v *visit) readsSlowly() {
	door := doors[v.r.IntN(len(doors))]
	w, err := v.dial(door, 4<<10)
	if err != nil {
		return
	}
	defer w.Close()
	const n = 8
	text := strings.Repeat("s", 8<<10)
	v.requests.Add(n)
	if err := w.put(frames(n, func(int) codec.Packet { return codec.Packet{Main: 1, Sub: 1, Body: []byte(text)} })); err != nil {
		w.ended(n, n, err)
		return
	}
	for i := range n {
		v.pause(50 * time.Millisecond)
		if err := w.wantEcho(text); err != nil {
			w.ended(n-i, n, err)
			return
		}
	}
	v.end("left")
}

// sendsNoFrames is told that a length can't be, behind the answer to what came in front of it.
func (v *visit) sendsNoFrames() {
	door := doors[v.r.IntN(len(doors))]
	w, err := v.dial(door, 0)
	if err != nil {
		return
	}
	defer w.Close()
	b := codec.Packet{Main: 1, Sub: 1, Body: []byte("in front")}.Append(nil)
	b = append(b, [][]byte{{0, 0, 0, 0}, {0, 0, 0, 3}, {0xff, 0xff, 0xff, 0xff}, {0x80, 0, 0, 0}}[v.r.IntN(4)]...)
	v.requests.Add(1)
	if err = w.put(b); err == nil {
		err = w.wantEcho("in front")
	}
	if err != nil {
		w.ended(1, 1, err)
		return
	}
	if _, err = w.next(patience); err == nil {
		v.violation("an answer behind a length that can't be")
	}
	if w.final != 1 && !v.srv.died.Load() && !w.told {
		v.violation("by %s: ERROR %d %q behind a length that can't be, want 1: %v", door, w.final, w.text, err)
	}
	v.end(fmt.Sprint("ERROR ", w.final))
}

// stopsHalfWay stops in a frame, a handshake or an upgrade.
func (v *visit) stopsHalfWay() {
	var d net.Dialer
	conn, err := d.DialContext(v.shut, "tcp", v.at.host)
	if err != nil {
		v.noService.Add(1)
		return
	}
	defer conn.Close()
	halves := []string{"\x00\x00", "\x00\x00\x10\x00\x00\x01\x00\x01half", "\x16\x03\x01\x02\x00\x01", "GET / HTTP/1.1\r\nHost: x\r\n", ""}
	_, _ = io.WriteString(conn, halves[v.r.IntN(len(halves))])
	_ = conn.SetReadDeadline(time.Now().Add(v.some(15 * time.Second)))
	defer context.AfterFunc(v.shut, func() { _ = conn.SetReadDeadline(time.Now()) })()
	_, err = io.Copy(io.Discard, conn)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		v.end("left")
		return
	}
	v.end("thrown out")
}
