package gnetio

import (
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// waits is how a reader waits for what happens next.
//
// On one processor, epoll_wait(2) is dear where it lasts. The runtime's monitor thread takes
// the processor from a goroutine that it finds in one system call twice, starts a thread
// that looks for something to run, and, having taken one, goes on looking every 20 µs: at
// 3,000 frames a second that is more than all the rest of a frame. A goroutine that is parked
// in the runtime's own poller has no processor that could be taken. Parking costs a few
// microseconds more than epoll_wait, so it is for waits that are long.
//
// With more processors one is idle while a loop waits, or there is work for the one that is
// taken. Loop goroutine only.
type waits struct {
	alone bool          // the process runs on one processor
	long  bool          // waits are long
	mean  time.Duration // of the last ones, each counted up to waitMost
	begun uint

	set   *os.File // the reader's set as the runtime's poller has it; nil: not yet
	conn  syscall.RawConn
	found func(uintptr) bool // looks, and keeps the number of events
	n     int
	unfit bool // the poller does not take it
}

// Waits are long from longWait in the mean, and short again below half of it. So a request
// at a time over loopback, which takes 30 to 60 µs, waits in epoll_wait. The monitor looks
// every 80 µs or so.
var longWait = 150 * time.Microsecond // a variable for tests

const (
	waitMost   = time.Millisecond // of one wait: a pause between bursts counts little
	waitsMeant = 16               // the mean is of about so many
	waitsAsked = 64               // after so many it is asked how many processors there are
)

// begin tells whether the wait that begins now is to be measured.
func (w *waits) begin() bool {
	if w.begun%waitsAsked == 0 {
		w.alone = runtime.GOMAXPROCS(0) == 1
		w.long = w.long && w.alone
	}
	w.begun++
	return w.alone
}

// end notes how long one was.
func (w *waits) end(d time.Duration) {
	w.mean += (min(d, waitMost) - w.mean) / waitsMeant
	switch {
	case w.mean > longWait:
		w.long = true
	case w.mean < longWait/2:
		w.long = false
	}
}

// sleep waits until something happens, and returns the number of events.
func (rd *reader) sleep() int {
	w := &rd.waits
	if !w.begin() {
		n, _ := unix.EpollWait(rd.epfd, rd.events, -1)
		return n
	}
	began := time.Now()
	n := 0
	if !w.long || !rd.park() {
		n, _ = unix.EpollWait(rd.epfd, rd.events, -1)
	} else {
		n = w.n
	}
	w.end(time.Since(began))
	return n
}

// park waits in the runtime's poller; false: it can't.
func (rd *reader) park() bool {
	w := &rd.waits
	if w.set == nil && !w.unfit {
		w.unfit = !rd.enlist()
	}
	return !w.unfit && w.conn.Read(w.found) == nil
}

// enlist gives the reader's set to the runtime's poller. From then on it is closed by the
// File.
func (rd *reader) enlist() bool {
	w := &rd.waits
	if unix.SetNonblock(rd.epfd, true) != nil { // of what would block the poller takes nothing
		return false
	}
	w.set = os.NewFile(uintptr(rd.epfd), "epoll")
	conn, err := w.set.SyscallConn()
	if err != nil {
		return false
	}
	w.conn = conn
	// The poller tells once of what happens, and Read forgets what it was told before the
	// first look: so nothing comes unseen between a look and the wait behind it.
	w.found = func(uintptr) bool {
		w.n = rd.look()
		return w.n > 0
	}
	return true
}
