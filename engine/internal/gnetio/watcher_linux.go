package gnetio

import (
	"fmt"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// watcher calls Host.Writable when a socket that was full is writable again. It is an epoll set
// with a goroutine that waits for it in Go's netpoller. A descriptor is armed for one event each
// time its socket is full (EPOLLONESHOT).
type watcher struct {
	mu   sync.RWMutex
	epfd int // guarded by mu; -1: stopped
	file *os.File
	done chan struct{}
}

func (w *watcher) start(writable func(id uint64)) error {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("epoll_create1: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return fmt.Errorf("watcher: %w", err)
	}
	file := os.NewFile(uintptr(fd), "watcher")
	raw, err := file.SyscallConn()
	if err != nil {
		_ = file.Close()
		return fmt.Errorf("watcher: %w", err)
	}
	w.mu.Lock()
	w.epfd, w.file, w.done = fd, file, make(chan struct{})
	w.mu.Unlock()
	go func() {
		defer close(w.done)
		events := make([]unix.EpollEvent, 256)
		for {
			n := 0
			err := raw.Read(func(fd uintptr) bool {
				n, _ = unix.EpollWait(int(fd), events, 0)
				return n > 0
			})
			if err != nil {
				return // closed
			}
			for _, ev := range events[:n] {
				writable(uint64(uint32(ev.Pad))<<32 | uint64(uint32(ev.Fd)))
			}
		}
	}()
	return nil
}

func (w *watcher) stop() {
	w.mu.Lock()
	file := w.file
	w.epfd, w.file = -1, nil
	w.mu.Unlock()
	if file != nil {
		_ = file.Close()
		<-w.done
	}
}

// watch arms fd for one event. The event carries id and not the descriptor, so one that comes
// late can't be mistaken for that of another connection with the same descriptor. Any goroutine.
func (w *watcher) watch(fd int, id uint64) error {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if w.epfd < 0 {
		return net.ErrClosed
	}
	ev := unix.EpollEvent{Events: unix.EPOLLOUT | unix.EPOLLONESHOT, Fd: int32(uint32(id)), Pad: int32(uint32(id >> 32))}
	return arm(w.epfd, fd, &ev)
}

func (w *watcher) forget(fd int) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if w.epfd >= 0 {
		_ = unix.EpollCtl(w.epfd, unix.EPOLL_CTL_DEL, fd, nil)
	}
}
