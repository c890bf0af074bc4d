package sched

import (
	"bytes"
	"runtime"
	"strconv"
	"strings"
)

const (
	maxStack = 16 << 10 // bytes of one goroutine's stack in a report
	maxDump  = 16 << 20 // bytes of the stacks of all goroutines; those beyond are not found
)

// GoroutineID is the number of the calling goroutine, as it stands in stack traces. It
// takes about a microsecond.
func GoroutineID() uint64 {
	var b [64]byte
	s := b[len("goroutine "):runtime.Stack(b[:], false)]
	s, _, _ = bytes.Cut(s, []byte(" "))
	id, _ := strconv.ParseUint(string(s), 10, 64)
	return id
}

// allStacks is the stacks of all goroutines. The world stands still while it is written.
func allStacks() []byte {
	for n := 64 << 10; ; n *= 4 {
		b := make([]byte, min(n, maxDump))
		if n := runtime.Stack(b, true); n < len(b) || len(b) == maxDump {
			return b[:n]
		}
	}
}

// stackOf cuts one goroutine's stack out of all; "" when it isn't there.
func stackOf(all []byte, id uint64) string {
	head := append(strconv.AppendUint([]byte("goroutine "), id, 10), " ["...)
	at := 0
	if !bytes.HasPrefix(all, head) {
		if at = bytes.Index(all, append([]byte("\n\n"), head...)); at < 0 {
			return ""
		}
		at += 2
	}
	one, _, _ := bytes.Cut(all[at:], []byte("\n\n"))
	return string(one[:min(len(one), maxStack)])
}

// waiting are the beginnings of functions that others wait in: they are no place.
var waiting = []string{"runtime.", "internal/", "sync.", "time.", "syscall.", "net.", "net/http.", "os.", "os/exec.", "io.", "bufio.", "crypto/", "database/sql.", "golang.org/x/sys/"}

// StackPlace is where a stack stands: the innermost function that is not the standard
// library's, and its line.
func StackPlace(stack string) string {
	lines := strings.Split(stack, "\n")
	first := ""
	for i := 1; i+1 < len(lines); i += 2 {
		fn := lines[i]
		if end := strings.LastIndexByte(fn, '('); end > 0 {
			fn = fn[:end]
		}
		_, line, _ := strings.Cut(lines[i+1][strings.LastIndexByte(lines[i+1], '/')+1:], ":")
		line, _, _ = strings.Cut(line, " ")
		place := fn + ":" + line
		if first == "" {
			first = place
		}
		if !hasPrefix(fn, waiting) {
			return place
		}
	}
	return first
}

func hasPrefix(s string, prefixes []string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}
