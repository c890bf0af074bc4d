package gnetio

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// onOne runs fn on one processor, with readers whose waits are all long.
func onOne(t *testing.T, fn func()) {
	procs, long := runtime.GOMAXPROCS(1), longWait
	longWait = -1
	defer func() { runtime.GOMAXPROCS(procs); longWait = long }()
	fn()
}

// A reader that waits in the runtime's poller misses nothing either, and leaves nothing.
func TestReadersThatPark(t *testing.T) {
	for name, test := range map[string]func(*testing.T){
		"every asked turn":      TestEveryAskedTurnComes,
		"detached":              TestReaderForgetsWhatIsDetached,
		"left to gnet":          TestReaderLeavesTheLoopToGnet,
		"events of what went":   TestEventsOfWhatHasGoneArePassedOver,
		"closed":                TestReadersAreClosed,
		"nothing keeps awake":   TestNothingKeepsALoopAwake,
		"beside tasks":          TestReaderLooksOnceBesideTasks,
		"stop behind the first": TestStopBehindTheFirstConnection,
	} {
		t.Run(name, func(t *testing.T) { onOne(t, func() { t.Run("parked", test) }) })
	}
}

// It parks where there is one processor and waits are long, and not otherwise; and while it is
// parked, what comes is read and a turn comes.
func TestReadersParkOnOneProcessor(t *testing.T) {
	onOne(t, func() {
		for _, procs := range []int{1, 2} {
			t.Run(fmt.Sprint(procs), func(t *testing.T) {
				runtime.GOMAXPROCS(procs)
				h := &echoHost{}
				n := listen(t, Config{Loops: 1}, h)
				c := dial(t, n.Addrs()[0])
				for range 2 * waitsAsked {
					c.says("hello")
					h.all()[0].wait(t, func() {})
				}
				el := h.all()[0]
				rd := el.n.(*loop).reader.Load()
				el.wait(t, func() {
					if parks := rd.waits.long && rd.waits.set != nil; parks != (procs == 1) {
						t.Errorf("a reader on %d processors waits in the runtime's poller: %v", procs, parks)
					}
				})
			})
		}
	})
}

// Waits that are short in the mean are not taken for long ones because of a pause between
// them; long ones are soon seen, and so is that they have become short.
func TestLongWaits(t *testing.T) {
	var w waits
	note := func(n int, d time.Duration) {
		for range n {
			w.end(d)
		}
	}
	note(1000, 60*time.Microsecond)
	for range 20 {
		note(1, time.Hour)
		if w.long {
			t.Fatalf("a pause between short waits makes them long: mean %v", w.mean)
		}
		note(100, 60*time.Microsecond)
	}
	note(4*waitsMeant, 300*time.Microsecond)
	if !w.long {
		t.Errorf("waits of 300 µs are not long: mean %v", w.mean)
	}
	note(1000, 100*time.Microsecond)
	if !w.long {
		t.Errorf("between the bounds it changes: mean %v", w.mean)
	}
	note(1, time.Hour)
	note(4*waitsMeant, 60*time.Microsecond)
	if w.long {
		t.Errorf("waits of 60 µs are long: mean %v", w.mean)
	}
}

// switches is how often the threads of a process have gone to sleep.
func switches(t *testing.T, pid int) (n int) {
	t.Helper()
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	for _, name := range tasks {
		b, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		for line := range strings.Lines(string(b)) {
			if v, ok := strings.CutPrefix(line, "voluntary_ctxt_switches:"); ok {
				k, _ := strconv.Atoi(strings.TrimSpace(v))
				n += k
			}
		}
	}
	return n
}

// A server on one processor that waits for long between frames wakes for each frame, and not
// the runtime's monitor every few microseconds too.
func TestLongWaitsWakeNobody(t *testing.T) {
	t.Setenv("GOMAXPROCS", "1")
	srv := prepare(t, childConfig{Addrs: []string{"tcp://127.0.0.1:0"}})
	if err := srv.start(); err != "" {
		t.Fatal(err)
	}
	at, err := net.ResolveTCPAddr("tcp", srv.addr)
	if err != nil {
		t.Fatal(err)
	}
	c := dial(t, at)
	frames := func(n int) {
		for range n {
			c.says("hello")
			time.Sleep(700 * time.Microsecond) // the wait itself
		}
	}
	frames(2 * waitsAsked)
	const n = 400
	before := switches(t, srv.cmd.Process.Pid)
	frames(n)
	got := float64(switches(t, srv.cmd.Process.Pid)-before) / n
	t.Logf("%.2f switches a frame", got)
	if got > 3 {
		t.Errorf("threads went to sleep %.1f times for each frame, want 1 or 2", got)
	}
}

// What is ready when it begins to park ends that, although the runtime's poller has told of it
// before and does not tell again.
func TestParkSeesWhatCameBefore(t *testing.T) {
	epfd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	rd := &reader{epfd: epfd, bell: -1, wakefd: -1, events: make([]epollEvent, 4)}
	defer rd.release()
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := rd.add(fd, 7, unix.EPOLLIN); err != nil {
		t.Fatal(err)
	}
	parked := make(chan int)
	park := func() {
		if !rd.park() {
			t.Error("the runtime's poller does not take an epoll set")
		}
		parked <- rd.waits.n
	}
	go park()
	select {
	case n := <-parked:
		t.Fatalf("it has %d events of nothing", n)
	case <-time.After(20 * time.Millisecond):
	}
	_, _ = unix.Write(fd, next)
	for i := range 3 {
		select {
		case n := <-parked:
			if n != 1 || rd.events[0].Fd != int32(fd) || rd.events[0].Pad != 7 {
				t.Fatalf("%d events, of descriptor %d and place %d; want one of %d and 7", n, rd.events[0].Fd, rd.events[0].Pad, fd)
			}
		case <-time.After(time.Minute):
			t.Fatalf("park %d does not see what is ready", i)
		}
		if i < 2 {
			go park()
		}
	}
}
