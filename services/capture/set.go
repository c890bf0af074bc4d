package capture

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"millrace/internal/userfile"
)

// Set is a recording in one or more files, such as FILE.1 and FILE of a server, read as one:
// in the order of the times in them, with sessions that begin in one and go on in the next.
// It is an io.ReaderAt of the files one behind another. Any goroutine may read; the files are
// closed by Close.
type Set struct {
	files []setFile
	size  int64
	left  int
}

type setFile struct {
	f     *os.File
	info  os.FileInfo
	size  int64
	base  int64     // where it begins in the set
	first time.Time // of its first record; zero: it has none
}

// maxFiles is how many files a Set may have.
const maxFiles = 1024

// overlap is how far the times in two files of one server may overlap: records of different
// loops are written in about the order of their times.
const overlap = time.Second

// OpenSet opens files, and those recordings that a folder has, its own folders left out. The
// error names the file. Files that are left out of a folder, as they don't begin as pcapng,
// are counted by Left.
func OpenSet(paths ...string) (*Set, error) {
	s := &Set{}
	for _, path := range paths {
		if err := s.add(path); err != nil {
			s.Close()
			return nil, err
		}
	}
	if len(s.files) == 0 {
		return nil, errors.New("capture: no files: name what serve --record-bodies has written")
	}
	slices.SortStableFunc(s.files, func(a, b setFile) int {
		return cmp.Or(a.first.Compare(b.first), cmp.Compare(a.f.Name(), b.f.Name()))
	})
	for i := range s.files {
		s.files[i].base = s.size
		s.size += s.files[i].size
	}
	return s, nil
}

// add adds a file, or what a folder has.
func (s *Set) add(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("capture: %w", err)
	}
	if !info.IsDir() {
		return s.addFile(path)
	}
	list, err := os.ReadDir(path)
	if err != nil {
		return fmt.Errorf("capture: %w", err)
	}
	found := false
	for _, e := range list {
		name := filepath.Join(path, e.Name())
		switch is, err := isPcapng(name); {
		case err != nil:
			return err
		case !is:
			s.left++
		default:
			found = true
			if err := s.addFile(name); err != nil {
				return err
			}
		}
	}
	if !found {
		return fmt.Errorf("capture: %s: %w: no file in it is one", path, ErrFormat)
	}
	return nil
}

// isPcapng tells whether a plain file begins as pcapng.
func isPcapng(name string) (bool, error) {
	info, err := os.Stat(name)
	if err != nil {
		return false, fmt.Errorf("capture: %w", err)
	}
	if !info.Mode().IsRegular() {
		return false, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return false, fmt.Errorf("capture: %w", err)
	}
	defer f.Close()
	var head [4]byte
	_, err = io.ReadFull(f, head[:])
	return err == nil && le.Uint32(head[:]) == blockSection, nil
}

// addFile opens a file and looks for its first record.
func (s *Set) addFile(name string) error {
	if len(s.files) == maxFiles {
		return fmt.Errorf("capture: more than %d files: play them in parts", maxFiles)
	}
	if err := userfile.OnlyFile(name); err != nil {
		return fmt.Errorf("capture: %s: %w", name, err)
	}
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("capture: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return fmt.Errorf("capture: %w", err)
	}
	if slices.ContainsFunc(s.files, func(x setFile) bool { return os.SameFile(x.info, info) }) {
		f.Close() // by its own name, and in a folder
		return nil
	}
	s.files = append(s.files, setFile{f: f, info: info, size: info.Size()})
	x := &s.files[len(s.files)-1]
	r, err := NewReader(f)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	e, err := r.Next()
	switch {
	case err == nil:
		x.first = e.At
	case !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// Left is how many files of folders were left out.
func (s *Set) Left() int { return s.left }

// Files are the names of the files in the order in which they are read.
func (s *Set) Files() []string {
	var all []string
	for _, x := range s.files {
		all = append(all, x.f.Name())
	}
	return all
}

// Index reads all of the files. One that begins before the one in front of it ends is an
// error: it is another server's, or the same one twice.
func (s *Set) Index() (*Recording, error) {
	var in *indexer
	var newest time.Time
	for i, x := range s.files {
		name, r := x.f.Name(), io.NewSectionReader(x.f, 0, x.size)
		if in == nil {
			reader, err := NewReader(r)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			in = newIndexer(reader)
		} else if err := in.x.goOn(r, x.base); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if !x.first.IsZero() && newest.Sub(x.first) > overlap {
			return nil, fmt.Errorf("%s: it begins before %s ends: they are of two servers, or the same twice; play them one by one", name, s.files[i-1].f.Name())
		}
		_, last, err := in.read()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if last.After(newest) {
			newest = last
		}
	}
	return in.end(), nil
}

// ReadAt implements io.ReaderAt.
func (s *Set) ReadAt(p []byte, off int64) (n int, err error) {
	i, found := slices.BinarySearchFunc(s.files, off, func(x setFile, off int64) int { return cmp.Compare(x.base, off) })
	if !found {
		i--
	}
	if i < 0 {
		return 0, fmt.Errorf("capture: read at %d", off)
	}
	for ; i < len(s.files) && n < len(p); i++ {
		x := &s.files[i]
		if off >= x.base+x.size {
			continue
		}
		part := p[n:min(int64(len(p)), int64(n)+x.base+x.size-off)]
		m, err := x.f.ReadAt(part, off-x.base)
		n, off = n+m, off+int64(m)
		if m < len(part) {
			return n, err
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// Close closes the files.
func (s *Set) Close() error {
	var errs []error
	for _, x := range s.files {
		if err := x.f.Close(); err != nil {
			errs = append(errs, fmt.Errorf("capture: %w", err))
		}
	}
	return errors.Join(errs...)
}
