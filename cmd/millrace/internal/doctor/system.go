package doctor

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
)

// memory checks the machine's available memory.
func memory(m *machine, w Want) Finding {
	const check, path = "memory", "/proc/meminfo"
	text, found := m.text(path)
	if !found {
		return unknown(check, path)
	}
	for line := range strings.Lines(text) {
		rest, is := strings.CutPrefix(line, "MemAvailable:")
		if !is {
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
		if err != nil {
			break
		}
		return enough(check, kib<<10, w, "available", "lower --memory-budget, or give the machine more")
	}
	return unknown(check, path)
}

// enough compares an amount of memory with what is needed.
func enough(check string, n int64, w Want, what, fix string) Finding {
	need := w.memory()
	if n < need {
		return Finding{check, Fail, bytes(n) + " " + what, fmt.Sprintf("a budget of %s and %d connections take up to %s", bytes(w.Memory), w.Conns, bytes(need)), fix}
	}
	return ok(check, "%s %s, up to %s are needed", bytes(n), what, bytes(need))
}

// cgroup returns the smallest value of a limit in this process's control group and its ancestors,
// for cgroup version 2 or a controller of version 1, with the file that has it; false if there is
// no limit.
func (m *machine) cgroup(v2, controller, v1 string) (n int64, at string, found bool) {
	const unlimited = 1 << 60 // version 1 has no special value for it
	dir, group, file := "", "", ""
	groups, _ := m.text("/proc/self/cgroup")
	for line := range strings.Lines(groups) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) < 3 {
			continue
		}
		if slices.Contains(strings.Split(f[1], ","), controller) {
			dir, group, file = "/sys/fs/cgroup/"+controller, f[2], v1
			break
		}
		if f[1] == "" {
			dir, group, file = "/sys/fs/cgroup", f[2], v2
		}
	}
	if dir == "" {
		return 0, "", false
	}
	n = unlimited
	for ; ; group = path.Dir(group) {
		name := path.Join(dir, group, file)
		if has, is := m.number(name, 0); is && has >= 0 && has < n {
			n, at, found = has, name, true
		}
		if group == "/" || group == "." {
			return n, at, found
		}
	}
}

// memoryCgroup checks the memory limit of the container or the systemd unit.
func memoryCgroup(m *machine, w Want) Finding {
	const check = "memory of the control group"
	n, _, found := m.cgroup("memory.max", "memory", "memory.limit_in_bytes")
	if !found {
		return ok(check, "no limit")
	}
	return enough(check, n, w, "allowed", "lower --memory-budget, or raise MemoryMax in the unit or the container's memory limit")
}

// cpuCgroup checks the CPU quota of the container or the systemd unit. Go runs as many threads as
// the quota allows, rounded up.
func cpuCgroup(m *machine, _ Want) Finding {
	const check = "CPU of the control group"
	quota, at, found := m.cgroup("cpu.max", "cpu", "cpu.cfs_quota_us")
	if !found {
		return ok(check, "no limit")
	}
	period, found := m.number(path.Join(path.Dir(at), "cpu.cfs_period_us"), 0)
	if path.Base(at) == "cpu.max" {
		period, found = m.number(at, 1)
	}
	if !found || period <= 0 {
		period = 100_000 // microseconds, the kernel's default
	}
	cpus := float64(quota) / float64(period)
	if cpus < 1 {
		return Finding{check, Warn, fmt.Sprintf("%.2g of a CPU", cpus), "when it is used up, all sessions stop for the rest of the period",
			"raise CPUQuota in the unit or the container's CPU limit to 100% or more"}
	}
	return ok(check, "%.3g CPUs", cpus)
}

// tasks checks how many threads the control group may have. Handlers that block in system calls use
// one each.
func tasks(m *machine, _ Want) Finding {
	const check, least = "threads", 512
	n, _, found := m.cgroup("pids.max", "pids", "pids.max")
	if !found {
		return ok(check, "no limit")
	}
	if n < least {
		return Finding{check, Warn, fmt.Sprintf("%d allowed", n), "Go ends the process when it can't create a thread", fmt.Sprintf("TasksMax=%d in the unit, or the container's pids limit", 4*least)}
	}
	return ok(check, "%d allowed", n)
}

// overcommit checks vm.overcommit_memory: the Go runtime reserves address space that it does not
// use.
func overcommit(m *machine, _ Want) Finding {
	const check, path = "memory overcommit", "/proc/sys/vm/overcommit_memory"
	n, found := m.number(path, 0)
	switch {
	case !found:
		return unknown(check, path)
	case n == 2:
		return Finding{check, Warn, "vm.overcommit_memory is 2", "Go reserves more address space than it uses, and ends the process if that is refused", sysctl("vm.overcommit_memory", 0)}
	}
	return ok(check, "vm.overcommit_memory is %d", n)
}

// kernel checks the version: from 4.6 on it reports how many bytes of a connection are unsent,
// which the engine needs to tell a slow client from a dead one.
func kernel(m *machine, _ Want) Finding {
	const check, path = "kernel", "/proc/sys/kernel/osrelease"
	release, found := m.text(path)
	if !found {
		return unknown(check, path)
	}
	var major, minor int
	if n, _ := fmt.Sscanf(release, "%d.%d", &major, &minor); n != 2 {
		return Finding{Check: check, State: Unknown, Found: release}
	}
	if major < 4 || major == 4 && minor < 6 {
		return Finding{check, Fail, release, "it does not report a connection's unsent bytes", "use Linux 4.6 or later"}
	}
	return ok(check, "%s", release)
}

// hugePages: with "always" an idle heap keeps whole huge pages of which it uses only a part.
func hugePages(m *machine, _ Want) Finding {
	const check, path = "transparent huge pages", "/sys/kernel/mm/transparent_hugepage/enabled"
	text, found := m.text(path)
	if !found {
		return ok(check, "none")
	}
	_, rest, _ := strings.Cut(text, "[")
	mode, _, _ := strings.Cut(rest, "]")
	switch mode {
	case "":
		return unknown(check, path)
	case "always":
		return Finding{check, Warn, mode, "an idle server's memory grows by huge pages that it hardly uses, and compaction stalls it", "echo madvise > " + path}
	}
	return ok(check, "%s", mode)
}

// governor checks how the CPUs choose their frequency.
func governor(m *machine, _ Want) Finding {
	const check = "CPU governor"
	var slow, all int
	for _, path := range m.glob("/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor") {
		all++
		g, _ := m.text(path)
		// With intel_pstate and amd-pstate, powersave is the normal governor; the energy preference decides.
		preference, has := m.text(strings.TrimSuffix(path, "scaling_governor") + "energy_performance_preference")
		if g == "powersave" && (!has || preference == "power") || g == "conservative" {
			slow++
		}
	}
	if all == 0 {
		return ok(check, "none, as in most virtual machines")
	}
	if slow > 0 {
		return Finding{check, Warn, fmt.Sprintf("%d of %d CPUs save power", slow, all), "answers take longer while the load is low", "cpupower frequency-set -g performance"}
	}
	return ok(check, "%d CPUs do not save power", all)
}

// clock: the engine reads the time for each frame. These clock sources can be read without a system
// call.
func clock(m *machine, _ Want) Finding {
	const check, path = "clock", "/sys/devices/system/clocksource/clocksource0/current_clocksource"
	source, found := m.text(path)
	if !found {
		return unknown(check, path)
	}
	switch source {
	case "tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter":
		return ok(check, "%s", source)
	}
	fix := "echo tsc > " + path
	if list, _ := m.text("/sys/devices/system/clocksource/clocksource0/available_clocksource"); !slices.Contains(strings.Fields(list), "tsc") {
		fix = "the kernel has marked the fast clock as unstable, or the hypervisor offers none: see dmesg"
	}
	return Finding{check, Warn, source, "reading the time is a system call", fix}
}
