// Package topcmd implements millrace top: the live view of a server in a terminal.
package topcmd

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"

	"millrace/services/admin"
	"millrace/services/admin/live"
)

// Top is the command line of millrace top.
type Top struct {
	doorFlags

	Once     bool          `help:"Print the view once and exit, for scripts (false)."`
	Interval time.Duration `default:"1s" placeholder:"D" help:"Time between updates (${default})."`
	Sort     string        `default:"unsent" placeholder:"BY" help:"Order of the sessions, largest first: unsent, pending, bytes, frames, paused or age, with the server's --costs also cpu or wait; or ended for those closed last (${default})."`
	Limit    int           `default:"10" placeholder:"N" help:"Number of sessions and handles shown (${default})."`
	Timeout  time.Duration `default:"5s" placeholder:"D" help:"Timeout for an answer (${default})."`
}

// leastInterval is the shortest interval between updates.
const leastInterval = 50 * time.Millisecond

// keys are the keys that change the order of the sessions.
var keys = map[byte]string{'u': "unsent", 'p': "pending", 'b': "bytes", 'f': "frames", 'a': "age", 'c': "cpu", 'w': "wait", 'e': "ended"}

// top shows a server's live view in a terminal.
type top struct {
	*Top
	door    *admin.Client
	seen    admin.Live   // the last answer
	history []live.Point // recent points, oldest first
	log     []live.Event // recent events, oldest first
	heard   time.Time    // of the last answer; zero: none yet
	fault   error        // of the last attempt; nil after an answer
}

// Run shows the view on stdout: once, or, if that is a terminal, until q is pressed.
func (c *Top) Run(stdout io.Writer) error {
	if err := c.check(); err != nil {
		return err
	}
	door, err := c.connect()
	if err != nil {
		return err
	}
	defer door.Close()
	t := &top{Top: c, door: door}
	file, _ := stdout.(*os.File)
	tty := file != nil && term.IsTerminal(int(file.Fd()))
	s := screen{width: 100, color: tty && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
	if c.Once || !tty {
		if w, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil && w > 0 {
			s.width = w
		}
		return t.once(stdout, s)
	}
	return t.watch(file, s)
}

// check reports an invalid value.
func (c *Top) check() error {
	switch {
	case c.Interval < leastInterval:
		return fail(usage, "--interval %v: must be %v or more", c.Interval, leastInterval)
	case c.Limit < 1:
		return fail(usage, "--limit %d: must be 1 or more", c.Limit)
	case c.Timeout <= 0:
		return fail(usage, "--timeout %v: must be above 0", c.Timeout)
	}
	return nil
}

// once prints one answer.
func (t *top) once(w io.Writer, s screen) error {
	end := time.NewTimer(t.Timeout)
	defer end.Stop()
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for waits := true; waits; {
		if err := t.look(context.Background()); err != nil {
			return t.word(err)
		}
		if waits = t.seen.Costs != nil && !t.seen.Costs.Known; !waits {
			break
		}
		select { // costs are measured from the first request on
		case <-again.C:
		case <-end.C:
			waits = false
		}
	}
	_, err := w.Write(t.draw(s))
	return err
}

// look requests new data.
func (t *top) look(ctx context.Context) error {
	since, events := t.seen.Seq, t.seen.EventSeq
	var a admin.Live
	ctx, cancel := context.WithTimeout(ctx, t.Timeout)
	defer cancel()
	t.fault = t.door.Get(ctx, "/live?"+url.Values{
		"since": {strconv.FormatUint(since, 10)}, "events": {strconv.FormatUint(events, 10)},
		"sort": {t.Sort}, "limit": {strconv.Itoa(t.Limit)},
	}.Encode(), &a)
	if t.fault != nil {
		return t.fault
	}
	if since > 0 && a.Started != t.seen.Started { // another process: all of its history is new
		t.history, t.log, t.seen = nil, nil, admin.Live{}
		return t.look(ctx)
	}
	t.history = last(append(t.history, a.History...), 120)
	t.log = last(append(t.log, a.Events...), 50)
	t.seen, t.heard = a, time.Now()
	return nil
}

// last returns the last elements of s, at most n.
func last[T any](s []T, n int) []T {
	if len(s) > n {
		return append([]T(nil), s[len(s)-n:]...)
	}
	return s
}

// watch shows the answers one after another, until q or a signal.
func (t *top) watch(out *os.File, s screen) error {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if err := t.look(ctx); err != nil { // an error in the first request ends the program
		return t.word(err)
	}
	pressed := make(chan byte)
	if in := int(os.Stdin.Fd()); term.IsTerminal(in) {
		old, err := term.MakeRaw(in)
		if err == nil {
			defer term.Restore(in, old)
			go readKeys(os.Stdin, pressed) // ends with the process
		}
	}
	const begin, end = "\x1b[?1049h\x1b[?25l\x1b[?7l", "\x1b[?7h\x1b[?25h\x1b[?1049l"
	fmt.Fprint(out, begin)
	defer fmt.Fprint(out, end)
	wait := t.Interval
	tick := time.NewTimer(wait)
	defer tick.Stop()
	for {
		if w, h, err := term.GetSize(int(out.Fd())); err == nil && w > 0 && h > 0 {
			s.width, s.height = w, h
		}
		if _, err := out.Write(frame(t.draw(s))); err != nil {
			return nil // the output was closed
		}
		select {
		case <-ctx.Done():
			return nil
		case k := <-pressed:
			if k == 'q' || k == 3 { // 3 is Ctrl-C, which sends no signal in raw mode
				return nil
			}
			if sort, ok := keys[k]; ok {
				t.Sort = sort
			}
		case <-tick.C:
		}
		if t.look(ctx) == nil {
			wait = t.Interval
		} else {
			wait = min(2*wait, max(15*time.Second, t.Interval))
		}
		tick.Reset(wait)
	}
}

func readKeys(in io.Reader, pressed chan<- byte) {
	b := make([]byte, 1)
	for {
		if _, err := in.Read(b); err != nil {
			return
		}
		pressed <- b[0]
	}
}

// frame converts text for a terminal in raw mode, and overwrites the previous text.
func frame(text []byte) []byte {
	text = bytes.TrimSuffix(text, []byte("\n"))
	return []byte("\x1b[H" + strings.ReplaceAll(string(text), "\n", "\x1b[K\r\n") + "\x1b[K\x1b[J")
}
