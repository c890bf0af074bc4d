package gnetio

import (
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"millrace/engine/internal/netio"
)

// maxSend limits one send or receive, in bytes: while the kernel copies them, the runtime can't
// stop the thread for a garbage collection.
const maxSend = 256 << 10

// send is send(2) on a non-blocking socket, without the runtime's bookkeeping for blocking system
// calls. Unlike write(2) it also avoids the kernel's file layer. Together that saves a tenth of a
// short send to a loopback peer. With MSG_NOSIGNAL a closed peer is EPIPE and no SIGPIPE.
func send(fd int, p []byte) (int, syscall.Errno) {
	n, _, err := syscall.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&p[0])),
		uintptr(min(len(p), maxSend)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
	if err != 0 {
		return 0, err
	}
	return int(n), 0
}

// recv is recv(2), called like send.
func recv(fd int, p []byte) (int, syscall.Errno) {
	n, _, err := syscall.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(min(len(p), maxSend)), unix.MSG_DONTWAIT, 0, 0)
	if err != 0 {
		return 0, err
	}
	return int(n), 0
}

// sendJoined is send for two pieces, by sendmsg(2). Neither may be empty.
func sendJoined(fd int, head, body []byte) (int, syscall.Errno) {
	iov := [2]unix.Iovec{{Base: &head[0]}, {Base: &body[0]}}
	iov[0].SetLen(len(head))
	iov[1].SetLen(min(len(body), maxSend))
	msg := unix.Msghdr{Iov: &iov[0]}
	msg.SetIovlen(len(iov))
	n, _, err := syscall.RawSyscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&msg)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	if err != 0 {
		return 0, err
	}
	return int(n), 0
}

// acks reads TCP_INFO. A living peer whose window is closed answers each window probe, so at most
// one is unanswered; and it answers each retransmission, so its last acknowledgement is no older
// than the retransmission timeout.
func acks(fd int) netio.Acks {
	var i unix.TCPInfo
	size := uint32(unsafe.Sizeof(i))
	_, _, err := syscall.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.IPPROTO_TCP, unix.TCP_INFO,
		uintptr(unsafe.Pointer(&i)), uintptr(unsafe.Pointer(&size)), 0)
	if err != 0 {
		return netio.Acks{} // a unix socket
	}
	ago := time.Duration(i.Last_ack_recv) * time.Millisecond
	late := ago > time.Duration(i.Rto)*time.Microsecond
	return netio.Acks{
		Owed:   i.Unacked > 0 || i.Notsent_bytes > 0,
		Missed: i.Probes >= 2 || i.Unacked > 0 && i.Retransmits > 0 && late,
		Ago:    ago,
		Reset:  i.State == unix.BPF_TCP_CLOSE,
	}
}

// queued returns the bytes in a socket's queue: TIOCINQ or TIOCOUTQ. 0 on an error.
func queued(fd int, which uint) int {
	n, err := unix.IoctlGetInt(fd, which)
	if err != nil {
		return 0
	}
	return n
}

// isReset tells whether a socket's error is the peer's reset or another that ends it at once. EPIPE is
// not: the peer's FIN came before its reset. The socket has no error any more then.
func isReset(fd int) bool {
	errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	return err != nil || errno != 0 && errno != int(unix.EPIPE)
}

// readRest reads until the FIN, giving take each piece; false if it ends with an error, such as
// EAGAIN.
func readRest(fd int, take func([]byte)) bool {
	b := make([]byte, 64<<10)
	for {
		n, err := unix.Read(fd, b)
		switch {
		case err == unix.EINTR:
		case err != nil || n < 0:
			return false
		case n == 0:
			return true
		default:
			take(b[:n])
		}
	}
}

// emptyInput discards the input that has arrived, up to refusedExcess: closing a socket with unread
// input sends a reset, which may destroy the goodbye.
func emptyInput(fd int) {
	var b [16 << 10]byte
	for n := 0; n < refusedExcess; {
		m, err := unix.Read(fd, b[:])
		if m <= 0 || err != nil {
			return
		}
		n += m
	}
}

// goodbye sends b, as far as the kernel takes it at once, and the FIN.
func goodbye(fd int, b []byte) {
	if len(b) > 0 {
		_, _ = send(fd, b)
	}
	_ = unix.Shutdown(fd, unix.SHUT_WR)
}
