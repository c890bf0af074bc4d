//go:build unix

package userfile

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestFilesThatWereNotMeant(t *testing.T) {
	dir := t.TempDir()
	pipe, short, long := filepath.Join(dir, "pipe"), filepath.Join(dir, "short"), filepath.Join(dir, "long")
	if err := errors.Join(syscall.Mkfifo(pipe, 0o600), os.WriteFile(short, []byte("0123456789"), 0o600), os.WriteFile(long, make([]byte, 11), 0o600)); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		pipe: "it is not a regular file, and", "/dev/zero": "longer than 10 bytes", long: "longer than 10 bytes", dir: "is a directory", filepath.Join(dir, "none"): "no such file",
	} {
		if b, err := Read(name, 10); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %d bytes, %v; want %q", name, len(b), err, want)
		}
	}
	if b, err := Read(short, 10); string(b) != "0123456789" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	if err := OnlyFile(pipe); err != ErrNoFile {
		t.Errorf("a pipe: %v", err)
	}
	if err := OnlyFile(short); err != nil {
		t.Errorf("a file: %v", err)
	}
	if _, err := KeyPair("/dev/zero", short); err == nil {
		t.Error("a pair of /dev/zero")
	}
	pipe = filepath.Join(dir, "another") // of the first one a read may still wait
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	written := make(chan error, 1)
	go func() { written <- os.WriteFile(pipe, []byte("piped"), 0) }()
	if b, err := Read(pipe, 10); !bytes.Equal(b, []byte("piped")) || err != nil {
		t.Errorf("through a pipe: %q, %v", b, err)
	}
	if err := <-written; err != nil {
		t.Error(err)
	}
}
