package main

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/hex"
	stdjson "encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
)

// file stores lines as JSON, one per line of the file, after a header line that identifies the
// history. A line is sent to nobody before it is synced. A write that was cut short may leave an
// incomplete line at the end, which is discarded. Used by the keeper's goroutine only.
type file struct {
	path string
	f    *os.File
	log  string
	size int64 // of whole lines
	torn bool  // there may be more behind size
}

type header struct {
	Log string `json:"log"`
}

// minCompact is how many bytes of obsolete lines the file may have before it is compacted.
const minCompact = 1 << 20

// openFile opens or creates the file at path, locks it for this process, and calls each for its
// lines.
func openFile(path string, each func(line) error) (*file, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("-history: %w", err)
	}
	h := &file{path: path, f: f}
	if err = lock(f); err == nil {
		err = h.isStill()
	}
	if err == nil {
		err = h.read(each)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("-history %s: %w", path, err)
	}
	return h, nil
}

// isStill reports whether the locked file still has the name: another process may have replaced it
// before it was locked.
func (h *file) isStill() error {
	a, err := h.f.Stat()
	if err != nil {
		return err
	}
	b, err := os.Stat(h.path)
	if err == nil && !os.SameFile(a, b) {
		err = errInUse
	}
	return err
}

var errInUse = errors.New("another process uses it; name another file")

// read reads the file, and writes the header if it is new.
func (h *file) read(each func(line) error) error {
	r := bufio.NewReaderSize(h.f, 64<<10)
	for n := 1; ; n++ {
		b, err := r.ReadSlice('\n')
		switch {
		case err == io.EOF:
			if h.torn = len(b) > 0; h.torn {
				slog.Warn("chat: the end of the history was cut short and is thrown away", "file", h.path, "bytes", len(b))
			}
			if h.log == "" {
				return h.begin()
			}
			return nil
		case err == bufio.ErrBufferFull:
			err = errors.New("longer than what is said can be")
		case err == nil && n == 1:
			err = h.header(b)
		case err == nil:
			var l line
			if err = stdjson.Unmarshal(b, &l); err == nil {
				l.size = len(b)
				err = each(l)
			}
		}
		if err != nil {
			return fmt.Errorf("line %d: %w; mend it, or move the file away", n, err)
		}
		h.size += int64(len(b))
	}
}

func (h *file) header(b []byte) error {
	var head header
	if err := stdjson.Unmarshal(b, &head); err != nil {
		return err
	}
	if h.log = head.Log; h.log == "" {
		return errors.New("this is no history of a chat")
	}
	return nil
}

// begin writes the header.
func (h *file) begin() error {
	id := make([]byte, 16)
	rand.Read(id)
	h.log = hex.EncodeToString(id)
	if err := h.write(h.encode(nil)); err != nil {
		return err
	}
	return syncDir(h.path)
}

// encode returns the whole content of a file with these lines.
func (h *file) encode(lines []line) []byte {
	b, _ := stdjson.Marshal(header{h.log})
	return encodeLines(append(b, '\n'), lines)
}

// encodeLines appends lines to b and sets their sizes.
func encodeLines(b []byte, lines []line) []byte {
	for i := range lines {
		j, _ := stdjson.Marshal(&lines[i]) // strings and numbers: it can't fail
		b = append(append(b, j...), '\n')
		lines[i].size = len(j) + 1
	}
	return b
}

// append writes lines, all or none of them, and syncs.
func (h *file) append(lines []line) error {
	if len(lines) == 0 {
		return nil
	}
	return h.write(encodeLines(nil, lines))
}

func (h *file) write(b []byte) error {
	if h.torn {
		if err := h.f.Truncate(h.size); err != nil {
			return err
		}
		h.torn = false
	}
	_, err := h.f.WriteAt(b, h.size)
	if err == nil {
		err = h.f.Sync()
	}
	if err != nil {
		h.torn = true
		if h.f.Truncate(h.size) == nil {
			h.torn = false
		}
		return err
	}
	h.size += int64(len(b))
	return nil
}

// rewrite replaces the file by one that contains only lines.
func (h *file) rewrite(lines []line) error {
	tmp := h.path + ".new"
	b := h.encode(lines)
	f, err := os.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if err = lock(f); err == nil {
		_, err = io.Copy(f, bytes.NewReader(b))
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(tmp, h.path)
	}
	if err != nil {
		f.Close()
		os.Remove(tmp)
		return err
	}
	h.f.Close()
	h.f, h.size, h.torn = f, int64(len(b)), false
	return syncDir(h.path)
}

// syncDir syncs a folder, so that a rename in it survives a crash.
func syncDir(path string) error {
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func (h *file) close() error { return h.f.Close() }
