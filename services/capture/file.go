package capture

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

// file is the file that is being written.
type file struct {
	cfg    Config
	f      *os.File
	size   int64
	broken bool // nothing more is written to it
}

// createFile begins the first file.
func createFile(cfg Config) (*file, error) {
	x := &file{cfg: cfg}
	for _, path := range []string{cfg.Path, cfg.Path + ".1"} { // the second is replaced by the first
		if err := mayReplace(path); err != nil {
			return nil, err
		}
	}
	if err := x.begin(); err != nil {
		return nil, err
	}
	return x, nil
}

// mayReplace returns nil if there is no file at the path, or an empty one, or a recording.
func mayReplace(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("capture: %w", err)
	case !info.Mode().IsRegular():
		return fmt.Errorf("capture: %s exists and is not a regular file: give another name", path)
	case info.Size() == 0:
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("capture: %w", err)
	}
	defer f.Close()
	var head [1 << 10]byte
	n, _ := io.ReadFull(f, head[:])
	if !bytes.HasPrefix(head[:n], []byte{0x0A, 0x0D, 0x0D, 0x0A}) || !bytes.Contains(head[:n], []byte(application)) {
		return fmt.Errorf("capture: %s exists and is not a recording: move it away, or give another name", path)
	}
	return nil
}

// begin renames an existing file to Path.1, and creates a new one.
func (x *file) begin() error {
	if err := os.Rename(x.cfg.Path, x.cfg.Path+".1"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("capture: %w", err)
	}
	f, err := os.OpenFile(x.cfg.Path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("capture: %w", err)
	}
	x.f, x.size = f, 0
	return x.write(appendHead(nil, x.cfg.form()))
}

func (x *file) write(b []byte) error {
	n, err := x.f.Write(b)
	x.size += int64(n)
	if err != nil {
		return fmt.Errorf("capture: %w", err)
	}
	return nil
}

// rotate ends the file and begins the next.
func (x *file) rotate(kept, dropped uint64) error {
	if err := x.end(kept, dropped); err != nil {
		return err
	}
	return x.begin()
}

// end writes what a file ends with, and closes it.
func (x *file) end(kept, dropped uint64) error {
	var err error
	if !x.broken {
		err = x.write(appendStats(nil, time.Now(), kept, dropped))
	}
	if cerr := x.f.Close(); err == nil && cerr != nil && !errors.Is(cerr, os.ErrClosed) {
		err = fmt.Errorf("capture: %w", cerr)
	}
	return err
}
