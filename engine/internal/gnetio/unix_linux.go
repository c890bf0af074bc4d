package gnetio

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// unixPath is the path of a unix socket. gnet removes any file at the path that it binds, so it is
// given a new path, in a directory that only this user may enter. When the socket listens and has
// its mode, it is renamed to the path that was configured.
type unixPath struct {
	dir  *os.File // the directory of the configured path
	base string   // the path's name in dir
	room string   // the name of the directory in dir that gnet binds in; "": none
	in   *os.File // that directory, open until gnet has ended: its address may be /proc/self/fd/N/name
	name string   // the socket's name in it

	published bool
	dev, ino  uint64 // the socket at the path, if published
}

const taken = "the path is taken by something that is not a socket: name another path"

// prepare opens the path's directory, checks that the path is free, and makes the directory to bind
// in.
func (c *claim) prepare(ctx context.Context, names map[string]net.Addr) error {
	path := filepath.Clean(c.addr.Host)
	dir, err := os.OpenFile(filepath.Dir(path), unix.O_DIRECTORY, 0)
	if errors.Is(err, fs.ErrPermission) { // it may be searched (x) but not read (r)
		dir, err = os.OpenFile(filepath.Dir(path), unix.O_DIRECTORY|unix.O_PATH, 0)
	}
	if err != nil {
		return err
	}
	p := &unixPath{dir: dir, base: filepath.Base(path)}
	c.path = p
	if err := p.free(ctx, path); err != nil {
		c.forget()
		return err
	}
	var b [6]byte
	rand.Read(b[:])
	p.room = ".millrace-" + hex.EncodeToString(b[:])
	p.name = p.base
	if err := unix.Mkdirat(int(dir.Fd()), p.room, 0o700); err != nil {
		p.room = ""
		c.forget()
		return os.NewSyscallError("mkdir", err)
	}
	fd, err := unix.Openat(int(dir.Fd()), p.room, unix.O_DIRECTORY|unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		c.forget()
		return os.NewSyscallError("open", err)
	}
	p.in = os.NewFile(uintptr(fd), p.room)
	bound := filepath.Join(filepath.Dir(path), p.room, p.name)
	if !plain.MatchString(bound) || len(bound) > maxPath {
		// Too long, or with characters that gnet reads as part of a URL.
		p.name = "millrace-" + hex.EncodeToString(b[:]) + ".sock"
		bound = fmt.Sprintf("/proc/self/fd/%d/%s", fd, p.name)
	}
	c.gnet = "unix://" + bound
	c.bound = &net.UnixAddr{Name: bound, Net: "unix"}
	c.real = &net.UnixAddr{Name: c.addr.Host, Net: "unix"}
	names[bound] = c.real
	return nil
}

// maxPath is the longest name that a unix socket can have.
const maxPath = 107

var plain = regexp.MustCompile(`^/[A-Za-z0-9_./+,=-]*$`)

// free returns nil if the path can be used: it does not exist, or is a socket that nobody listens
// on.
func (p *unixPath) free(ctx context.Context, path string) error {
	var st unix.Stat_t
	err := unix.Fstatat(int(p.dir.Fd()), p.base, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case err == unix.ENOENT:
		return nil
	case err != nil:
		return &os.PathError{Op: "stat", Path: path, Err: err}
	case st.Mode&unix.S_IFMT != unix.S_IFSOCK:
		return &AddrError{"unix://" + path, taken}
	}
	d := net.Dialer{Timeout: time.Second}
	c, err := d.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", p.dir.Fd(), p.base))
	switch {
	case err == nil:
		_ = c.Close()
		return syscall.EADDRINUSE
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.ENOENT):
		return nil // left behind by a server that has died
	case ctx.Err() != nil:
		return ctx.Err()
	default:
		// Its backlog is full, we may not connect to it, or it is a datagram socket: it is in use.
		return fmt.Errorf("%w (%w)", syscall.EADDRINUSE, err)
	}
}

// publish renames the socket, which gnet now listens on, to its path.
func (c *claim) publish(mode fs.FileMode) error {
	p := c.path
	if err := p.publish(c.addr.Host, mode); err != nil {
		return refusal(c.addr, err)
	}
	p.leaveRoom()
	return nil
}

func (p *unixPath) publish(path string, mode fs.FileMode) error {
	in := int(p.in.Fd())
	if mode != 0 {
		if err := os.Chmod(fmt.Sprintf("/proc/self/fd/%d/%s", in, p.name), mode.Perm()); err != nil {
			return err
		}
	}
	defer p.lock()()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := p.free(ctx, path); err != nil { // again: another server may have taken the path meanwhile
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(in, p.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return os.NewSyscallError("stat", err)
	}
	if err := unix.Renameat(in, p.name, int(p.dir.Fd()), p.base); err != nil {
		return os.NewSyscallError("rename", err)
	}
	p.published, p.dev, p.ino = true, uint64(st.Dev), st.Ino
	return nil
}

// lockTime is how long lock waits for another process.
const lockTime = 2 * time.Second

// lock locks the directory, so that no other server changes its sockets between a check and the
// change that follows. The kernel unlocks it when the process ends. If the directory can't be
// locked within lockTime, lock gives up, and the change is made without the lock.
func (p *unixPath) lock() (unlock func()) {
	for end := time.Now().Add(lockTime); ; {
		err := unix.Flock(int(p.dir.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = unix.Flock(int(p.dir.Fd()), unix.LOCK_UN) }
		}
		if (err != unix.EWOULDBLOCK && err != unix.EINTR) || time.Now().After(end) {
			return func() {}
		}
		time.Sleep(time.Millisecond) // flock has no timeout
	}
}

// leaveRoom removes the directory that gnet bound in.
func (p *unixPath) leaveRoom() {
	if p.room != "" {
		if p.in != nil {
			_ = unix.Unlinkat(int(p.in.Fd()), p.name, 0)
		}
		_ = unix.Unlinkat(int(p.dir.Fd()), p.room, unix.AT_REMOVEDIR)
		p.room = ""
	}
}

// unlink removes the socket from its path, unless another file is there by now.
func (c *claim) unlink() {
	p := c.path
	if p == nil || !p.published {
		return
	}
	p.published = false
	defer p.lock()()
	var st unix.Stat_t
	err := unix.Fstatat(int(p.dir.Fd()), p.base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil && uint64(st.Dev) == p.dev && st.Ino == p.ino {
		_ = unix.Unlinkat(int(p.dir.Fd()), p.base, 0)
	}
}

// forget closes the claim's directories, after gnet has ended.
func (c *claim) forget() {
	if p := c.path; p != nil {
		p.leaveRoom()
		if p.in != nil {
			_ = p.in.Close()
		}
		_ = p.dir.Close()
		c.path = nil
	}
}
