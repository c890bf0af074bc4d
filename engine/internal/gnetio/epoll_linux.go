package gnetio

import (
	"bufio"
	"bytes"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// setEvents sets the events of fd in an epoll set: input; or, with none, hang-up and error only.
func setEvents(epfd, fd int, none bool) error {
	ev := unix.EpollEvent{Fd: int32(fd)}
	if !none {
		ev.Events = unix.EPOLLIN | unix.EPOLLPRI
	}
	return unix.EpollCtl(epfd, unix.EPOLL_CTL_MOD, fd, &ev)
}

// arm sets the event of fd in an epoll set, to which it adds fd if it is not there.
func arm(epfd, fd int, ev *unix.EpollEvent) error {
	err := unix.EpollCtl(epfd, unix.EPOLL_CTL_MOD, fd, ev)
	if err == unix.ENOENT {
		err = unix.EpollCtl(epfd, unix.EPOLL_CTL_ADD, fd, ev)
	}
	return err
}

// idle reports whether an epoll set has no event ready. It consumes none.
func idle(epfd int) bool {
	set := [1]unix.PollFd{{Fd: int32(epfd), Events: unix.POLLIN}}
	n, err := unix.Poll(set[:], 0)
	return n == 0 && err == nil
}

// eachEpoll calls fn for each epoll set of the process, as /proc/self/fdinfo lists them, with its
// members, until fn returns false.
func eachEpoll(fn func(epfd int, members []int) bool) {
	dir, err := os.ReadDir("/proc/self/fdinfo")
	if err != nil {
		return
	}
	for _, e := range dir {
		b, err := os.ReadFile("/proc/self/fdinfo/" + e.Name())
		if err != nil || !bytes.Contains(b, []byte("tfd:")) {
			continue
		}
		if n, _ := strconv.Atoi(e.Name()); !fn(n, epollMembers(b)) {
			return
		}
	}
}

func epollMembers(fdinfo []byte) (fds []int) {
	lines := bufio.NewScanner(bytes.NewReader(fdinfo))
	for lines.Scan() {
		f := bytes.Fields(lines.Bytes())
		if len(f) >= 2 && string(f[0]) == "tfd:" {
			if n, err := strconv.Atoi(string(f[1])); err == nil {
				fds = append(fds, n)
			}
		}
	}
	return fds
}
