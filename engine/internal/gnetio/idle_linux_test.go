package gnetio

import (
	"testing"

	"golang.org/x/sys/unix"
)

// Looking whether the poller has something takes nothing away from it, not even an
// event that is told once.
func TestIdleLeavesTheEventsToThePoller(t *testing.T) {
	epfd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(epfd)
	l := loop{epfd: epfd}
	for _, mode := range []uint32{0, unix.EPOLLET} {
		fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if err := unix.EpollCtl(epfd, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN | mode, Fd: int32(fd)}); err != nil {
			t.Fatal(err)
		}
		if !l.Idle() {
			t.Fatalf("mode %#x: not idle with nothing to read", mode)
		}
		if _, err := unix.Write(fd, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if l.Idle() {
				t.Fatalf("mode %#x: idle beside a ready descriptor", mode)
			}
		}
		events := make([]unix.EpollEvent, 4)
		if n, err := unix.EpollWait(epfd, events, 0); n != 1 || err != nil || int(events[0].Fd) != fd {
			t.Fatalf("mode %#x: the poller got %d events, %v", mode, n, err)
		}
		var b [8]byte
		if _, err := unix.Read(fd, b[:]); err != nil {
			t.Fatal(err)
		}
	}
}
