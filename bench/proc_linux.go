package bench

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// usage is a process's own accounting at one moment.
type usage struct {
	total  time.Duration // user and system, to the nanosecond
	user   time.Duration // in clock ticks (10 ms)
	system time.Duration
}

// clockTick is USER_HZ, which is 100 on every Linux that Go runs on.
const clockTick = 10 * time.Millisecond

// cpuUsage reads a process's CPU: the sum from its CPU clock, which is exact and includes threads that
// have ended, the split from /proc/PID/stat.
func cpuUsage(pid int) (usage, error) {
	var u usage
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return u, fmt.Errorf("bench: CPU of process %d: %w", pid, err)
	}
	_, tail, _ := bytes.Cut(stat, []byte(") ")) // the name may hold spaces
	f := bytes.Fields(tail)
	if len(f) < 13 {
		return u, fmt.Errorf("bench: /proc/%d/stat is short", pid)
	}
	u.user, u.system = ticks(f[11]), ticks(f[12])
	u.total = u.user + u.system
	var ts unix.Timespec
	clock := int32(^uint32(pid)<<3 | 2) // CPUCLOCK_SCHED of a process, as clock_getcpuclockid(3) makes it
	if unix.ClockGettime(clock, &ts) == nil {
		u.total = time.Duration(ts.Nano())
	}
	return u, nil
}

func ticks(b []byte) time.Duration {
	n, _ := strconv.ParseInt(string(b), 10, 64) // the kernel writes numbers
	return time.Duration(n) * clockTick
}

// add is the sum of two processes' usages.
func (u usage) add(v usage) usage {
	return usage{u.total + v.total, u.user + v.user, u.system + v.system}
}

// sub is what was used between from and u; the split takes the exact sum's size.
func (u usage) sub(from usage) usage {
	d := usage{u.total - from.total, u.user - from.user, u.system - from.system}
	if split := d.user + d.system; split > 0 {
		d.user = time.Duration(float64(d.total) * float64(d.user) / float64(split))
		d.system = d.total - d.user
	} else {
		d.user, d.system = 0, d.total
	}
	return d
}

// residentBytes is a process's RSS.
func residentBytes(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, fmt.Errorf("bench: memory of process %d: %w", pid, err)
	}
	f := bytes.Fields(b)
	if len(f) < 2 {
		return 0, fmt.Errorf("bench: /proc/%d/statm is short", pid)
	}
	pages, err := strconv.ParseInt(string(f[1]), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("bench: /proc/%d/statm: %w", pid, err)
	}
	return pages * int64(os.Getpagesize()), nil
}

// openFiles counts a process's descriptors.
func openFiles(pid int) (int, error) {
	d, err := os.Open(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return 0, fmt.Errorf("bench: descriptors of process %d: %w", pid, err)
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	return len(names), err
}

// childAttributes makes a child die with this process, but not of the terminal's interrupt, and what it starts end with it.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}

// startOn starts cmd on the given CPUs only (all when empty). A child inherits the mask of the thread
// that forks it, so Go's runtime in it sees that many CPUs.
func startOn(cmd *exec.Cmd, cpus []int) error {
	runtime.LockOSThread() // also for Pdeathsig, which is the thread's death
	defer runtime.UnlockOSThread()
	if len(cpus) == 0 {
		return cmd.Start()
	}
	var before, mask unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return fmt.Errorf("read CPU mask: %w", err)
	}
	for _, c := range cpus {
		mask.Set(c)
	}
	if err := unix.SchedSetaffinity(0, &mask); err != nil {
		return fmt.Errorf("pin to CPUs %v: %w", cpus, err)
	}
	err := cmd.Start()
	return errors.Join(err, unix.SchedSetaffinity(0, &before))
}

// splitCPUs gives the first allowed CPU to the server and the others to the generators.
func splitCPUs() (server, generators []int, err error) {
	var mask unix.CPUSet
	if err := unix.SchedGetaffinity(0, &mask); err != nil {
		return nil, nil, fmt.Errorf("bench: read CPU mask: %w", err)
	}
	var all []int
	for c := range len(mask) * 64 {
		if mask.IsSet(c) {
			all = append(all, c)
		}
	}
	if len(all) < 2 {
		return nil, nil, errors.New("bench: pinned runs need two CPUs")
	}
	return all[:1], all[1:], nil
}

// describeMachine fills in what /proc says.
func describeMachine(m *Machine) {
	var uts unix.Utsname
	if unix.Uname(&uts) == nil {
		m.Kernel = "Linux " + unix.ByteSliceToString(uts.Release[:])
	}
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
				m.CPU = strings.TrimSpace(v)
				break
			}
		}
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		m.Memory = int64(info.Totalram) * int64(info.Unit)
	}
}
