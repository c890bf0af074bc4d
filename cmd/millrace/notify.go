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

// notifier reports the server's state to the service manager, with systemd's sd_notify protocol:
// that it is ready, that it stops, and periodically that it is alive. Without a manager that
// expects notifications it does nothing.
type notifier struct {
	socket string        // "": no manager
	every  time.Duration // interval of watchdog notifications; 0: none
}

// newNotifier reads the manager's settings from the environment, and removes them there so that
// child processes do not send notifications for this one.
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
		_ = os.Unsetenv(name) // fails only for an invalid name
	}
	const most = int64(math.MaxInt64 / time.Microsecond) // longer times do not fit a Duration: no watchdog
	if us, err := strconv.ParseInt(usec, 10, 64); err == nil && us > 0 && us <= most && (pid == "" || pid == strconv.Itoa(os.Getpid())) {
		n.every = time.Duration(us) * time.Microsecond / 2
	}
	return n
}

// say sends one notification. Errors are ignored: the server runs without a manager too.
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

// deadAfter is how long a loop may fail to tick before the server is no longer reported as alive.
// /healthz fails then too.
const deadAfter = 10 * time.Second

// lives reports whether all loops tick. A server that drains is alive too.
func lives(srv *engine.Server) bool {
	for _, l := range srv.Stats().Loops {
		if l.Late >= deadAfter {
			return false
		}
	}
	return srv.Err() == nil
}

// ready reports that the server is ready, and then, as long as alive returns true, that it is
// alive, until stop is called.
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
