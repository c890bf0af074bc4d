package main

import (
	"math"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"millrace/engine"
)

// notifier tells the service manager how the server is, as systemd's sd_notify does: that it is
// ready, that it stops, and again and again that it lives. Where there is no manager that wants to
// know, it tells nobody.
type notifier struct {
	socket string        // "": nobody
	every  time.Duration // that it lives; 0: never
}

// newNotifier reads what the manager says in the environment, and takes it from the processes
// that this one starts: they would speak for it.
func newNotifier(environ []string) *notifier {
	n := &notifier{}
	var usec, pid string
	for _, kv := range environ {
		switch name, value, _ := strings.Cut(kv, "="); name {
		case "NOTIFY_SOCKET":
			n.socket = value
		case "WATCHDOG_USEC":
			usec = value
		case "WATCHDOG_PID":
			pid = value
		default:
			continue
		}
	}
	for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} {
		_ = os.Unsetenv(name) // of a good name
	}
	const most = int64(math.MaxInt64 / time.Microsecond) // a longer time is no watchdog
	if us, err := strconv.ParseInt(usec, 10, 64); err == nil && us > 0 && us <= most && (pid == "" || pid == strconv.Itoa(os.Getpid())) {
		n.every = time.Duration(us) * time.Microsecond / 2
	}
	return n
}

// say tells one thing. A manager that doesn't listen is no reason to stop.
func (n *notifier) say(state string) {
	if n.socket == "" {
		return
	}
	conn, err := net.Dial("unixgram", n.socket)
	if err != nil {
		return
	}
	defer conn.Close()
	_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
	_, _ = conn.Write([]byte(state))
}

// deadAfter is how long a loop may leave its clocks alone until the server is no longer said
// to live; /healthz fails then too.
const deadAfter = 10 * time.Second

// lives says whether the server's loops tick. One that drains lives.
func lives(srv *engine.Server) bool {
	for _, l := range srv.Stats().Loops {
		if l.Late >= deadAfter {
			return false
		}
	}
	return srv.Err() == nil
}

// ready tells that the server is ready, and as long as it lives that it does, until stop is
// called.
func (n *notifier) ready(alive func() bool) (stop func()) {
	n.say("READY=1")
	if n.socket == "" || n.every == 0 {
		return func() {}
	}
	quit := make(chan struct{})
	var bg sync.WaitGroup
	bg.Go(func() {
		tick := time.NewTicker(n.every)
		defer tick.Stop()
		for {
			if alive() {
				n.say("WATCHDOG=1")
			}
			select {
			case <-tick.C:
			case <-quit:
				return
			}
		}
	})
	return func() {
		close(quit)
		bg.Wait()
	}
}
