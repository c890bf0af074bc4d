//go:build unix

package benchcmd

import (
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

func TestWhatIsNoFileIsNotReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	pipe, err := os.OpenFile(path, os.O_RDWR, 0) // both ends, so that nobody waits for the other
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	if err := writeFile(path, func(w io.Writer) error { _, err := io.WriteString(w, "hello"); return err }); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	_ = pipe.SetReadDeadline(time.Now().Add(time.Minute)) // a pipe has deadlines; without one the read would only last
	if _, err := io.ReadFull(pipe, got); err != nil || string(got) != "hello" {
		t.Errorf("the reader of the pipe got %q, %v", got, err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode()&os.ModeNamedPipe == 0 {
		t.Errorf("the pipe was replaced: %v", err)
	}
}
