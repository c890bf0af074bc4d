package doctor

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	limits = "Limit                     Soft Limit           Hard Limit           Units     \n" +
		"Max processes             96365                96365                processes \n" +
		"Max open files            1024                 HARD                 files     \n"
	netstat = "TcpExt: SyncookiesSent ListenOverflows ListenDrops\nTcpExt: 7 LOST 9\nIpExt: InOctets\nIpExt: 3\n"
	cpu0    = "/sys/devices/system/cpu/cpu0/cpufreq/"
	cpu1    = "/sys/devices/system/cpu/cpu1/cpufreq/"
	v2      = "/sys/fs/cgroup/"
	clock0  = "/sys/devices/system/clocksource/clocksource0/"
	sysNet  = "/proc/sys/net/"
)

// fit is a machine that is fit for all, with limits that a container has.
var fit = map[string]string{
	"/proc/self/limits":                           strings.Replace(limits, "HARD", "1048576", 1),
	"/proc/self/cgroup":                           "0::/system.slice/game.service\n",
	"/proc/meminfo":                               "MemTotal: 16000000 kB\nMemFree: 100 kB\nMemAvailable:   8000000 kB\n",
	"/proc/net/netstat":                           strings.Replace(netstat, "LOST", "0", 1),
	"/proc/sys/fs/file-max":                       "1000000",
	"/proc/sys/fs/nr_open":                        "1048576",
	"/proc/sys/vm/overcommit_memory":              "0",
	"/proc/sys/kernel/osrelease":                  "6.1.0-18-amd64",
	sysNet + "core/somaxconn":                     "4096",
	sysNet + "ipv4/ip_local_port_range":           "32768\t60999",
	sysNet + "ipv4/ip_local_reserved_ports":       "",
	sysNet + "ipv4/tcp_mem":                       "190000\t250000\t380000",
	sysNet + "ipv4/tcp_syncookies":                "1",
	sysNet + "netfilter/nf_conntrack_max":         "262144",
	v2 + "system.slice/game.service/memory.max":   "max",
	v2 + "system.slice/memory.max":                "4294967296",
	v2 + "system.slice/game.service/cpu.max":      "200000 100000",
	v2 + "system.slice/game.service/pids.max":     "4915",
	"/sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never",
	cpu0 + "scaling_governor":                     "performance",
	cpu1 + "scaling_governor":                     "powersave",
	cpu1 + "energy_performance_preference":        "balance_performance",
	clock0 + "current_clocksource":                "tsc",
	clock0 + "available_clocksource":              "tsc hpet acpi_pm",
}

// other is fit with these files as they are said to be; "-" is none.
func other(change map[string]string) map[string]string {
	files := maps.Clone(fit)
	for path, text := range change {
		if files[path] = text; text == "-" {
			delete(files, path)
		}
	}
	return files
}

func look(t *testing.T, files map[string]string) map[string]Finding {
	t.Helper()
	root := t.TempDir()
	write(t, root, files)
	return lookAt(t, root)
}

func write(t *testing.T, root string, files map[string]string) {
	t.Helper()
	for path, text := range files {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// lookAt makes the checks and wants each finding to be whole.
func lookAt(t *testing.T, root string) map[string]Finding {
	t.Helper()
	found := map[string]Finding{}
	for _, f := range Run(root, Want{Conns: 10_000, Memory: 256 << 20, Port: 7000}) {
		if _, twice := found[f.Check]; twice {
			t.Errorf("%s twice", f.Check)
		}
		if found[f.Check] = f; (f.State == Warn || f.State == Fail) != (f.Fix != "" && f.Why != "") || f.Found == "" {
			t.Errorf("%+v", f)
		}
	}
	return found
}

func TestAMachineThatIsFit(t *testing.T) {
	found := look(t, fit)
	if len(found) != 17 {
		t.Errorf("%d checks", len(found))
	}
	for _, f := range found {
		if f.State != OK {
			t.Errorf("%+v", f)
		}
	}
	for check, want := range map[string]string{"memory of the control group": "4.0 GiB allowed", "CPU of the control group": "2 CPUs", "threads": "4915", "CPU governor": "2 CPUs", "transparent huge pages": "madvise"} {
		if !strings.Contains(found[check].Found, want) {
			t.Errorf("got %+v, want it to say %s", found[check], want)
		}
	}
}

// Each fault is found by its own check, with a fix that names what is to be changed.
func TestEachFaultIsFound(t *testing.T) {
	v1 := map[string]string{"/proc/self/cgroup": "9:name=systemd:/\n5:cpu,cpuacct:/a\n4:memory:/a/b\n3:pids:/\n0::/\n"}
	with := func(path, text string) map[string]string {
		files := maps.Clone(v1)
		files[path] = text
		return files
	}
	for _, tt := range []struct {
		name   string
		change map[string]string
		check  string
		state  State
		fix    string
	}{
		{"few files", map[string]string{"/proc/self/limits": strings.Replace(limits, "HARD", "10063", 1)}, "open files", Fail, "LimitNOFILE=10064"},
		{"just enough", map[string]string{"/proc/self/limits": strings.Replace(limits, "HARD", "10064", 1)}, "open files", OK, ""},
		{"no limit of files", map[string]string{"/proc/self/limits": strings.Replace(limits, "HARD", "unlimited", 1)}, "open files", OK, ""},
		{"few of the machine", map[string]string{"/proc/sys/fs/file-max": "20000"}, "open files of the whole machine", Fail, "fs.file-max="},
		{"few of a process", map[string]string{"/proc/sys/fs/nr_open": "4096"}, "open files of the whole machine", Fail, "fs.nr_open="},
		{"a short backlog", map[string]string{sysNet + "core/somaxconn": "128"}, "listen backlog", Warn, "net.core.somaxconn="},
		{"its port is in the range", map[string]string{sysNet + "ipv4/ip_local_port_range": "1024 65535"}, "port range", Warn, "ip_local_reserved_ports=7000"},
		{"and is reserved", map[string]string{sysNet + "ipv4/ip_local_port_range": "1024 65535", sysNet + "ipv4/ip_local_reserved_ports": "80,6999-7001"}, "port range", OK, ""},
		{"others are reserved", map[string]string{sysNet + "ipv4/ip_local_port_range": "1024 65535", sysNet + "ipv4/ip_local_reserved_ports": "70,6000-6999,7001-x"}, "port range", Warn, "7000"},
		{"few ports", map[string]string{sysNet + "ipv4/ip_local_port_range": "50000 55000"}, "port range", Warn, "ip_local_port_range="},
		{"little TCP memory", map[string]string{sysNet + "ipv4/tcp_mem": "10 100 200"}, "TCP memory", Warn, "tcp_mem="},
		{"a small table", map[string]string{sysNet + "netfilter/nf_conntrack_max": "16384"}, "connection tracking", Fail, "nf_conntrack_max=40000"},
		{"no table", map[string]string{sysNet + "netfilter/nf_conntrack_max": "-"}, "connection tracking", OK, ""},
		{"no cookies", map[string]string{sysNet + "ipv4/tcp_syncookies": "0"}, "SYN cookies", Warn, "tcp_syncookies=1"},
		{"lost connections", map[string]string{"/proc/net/netstat": strings.Replace(netstat, "LOST", "12", 1)}, "lost connections", Warn, "somaxconn"},
		{"little memory", map[string]string{"/proc/meminfo": "MemTotal: 16000000 kB\nMemAvailable: 300000 kB\n"}, "memory", Fail, "--memory-budget"},
		{"little for the unit", map[string]string{v2 + "system.slice/game.service/memory.max": "134217728"}, "memory of the control group", Fail, "MemoryMax"},
		{"little for its slice", map[string]string{v2 + "system.slice/memory.max": "134217728"}, "memory of the control group", Fail, "MemoryMax"},
		{"little, version 1", with("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "134217728"), "memory of the control group", Fail, "MemoryMax"},
		{"no limit, version 1", with("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "9223372036854771712"), "memory of the control group", OK, ""},
		{"no overcommit", map[string]string{"/proc/sys/vm/overcommit_memory": "2"}, "memory overcommit", Warn, "overcommit_memory=0"},
		{"half a CPU", map[string]string{v2 + "system.slice/game.service/cpu.max": "25000 50000"}, "CPU of the control group", Warn, "CPUQuota"},
		{"no quota", map[string]string{v2 + "system.slice/game.service/cpu.max": "max 100000"}, "CPU of the control group", OK, ""},
		{"half a CPU, version 1", map[string]string{"/proc/self/cgroup": "5:cpuacct,cpu:/a\n", "/sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "50000", "/sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000"}, "CPU of the control group", Warn, "CPUQuota"},
		{"no quota, version 1", map[string]string{"/proc/self/cgroup": "5:cpuacct,cpu:/a\n", "/sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "-1"}, "CPU of the control group", OK, ""},
		{"few threads", map[string]string{v2 + "system.slice/game.service/pids.max": "64"}, "threads", Warn, "TasksMax"},
		{"an old kernel", map[string]string{"/proc/sys/kernel/osrelease": "4.5.9"}, "kernel", Fail, "4.6"},
		{"old enough", map[string]string{"/proc/sys/kernel/osrelease": "4.6.0-x"}, "kernel", OK, ""},
		{"a kernel of no number", map[string]string{"/proc/sys/kernel/osrelease": "custom"}, "kernel", Unknown, ""},
		{"huge pages", map[string]string{"/sys/kernel/mm/transparent_hugepage/enabled": "[always] madvise never"}, "transparent huge pages", Warn, "echo madvise > /sys"},
		{"a slow CPU", map[string]string{cpu0 + "scaling_governor": "powersave"}, "CPU governor", Warn, "cpupower"},
		{"a CPU that prefers power", map[string]string{cpu1 + "energy_performance_preference": "power"}, "CPU governor", Warn, "cpupower"},
		{"a slow clock", map[string]string{clock0 + "current_clocksource": "hpet"}, "clock", Warn, "echo tsc >"},
		{"no other clock", map[string]string{clock0 + "current_clocksource": "hpet", clock0 + "available_clocksource": "hpet acpi_pm"}, "clock", Warn, "dmesg"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			found := look(t, other(tt.change))
			if f := found[tt.check]; f.State != tt.state || !strings.Contains(f.Fix, tt.fix) {
				t.Errorf("got %+v, want %s and a fix with %q", f, tt.state, tt.fix)
			}
			for check, f := range found {
				if check != tt.check && (f.State == Warn || f.State == Fail) {
					t.Errorf("also %+v", f)
				}
			}
		})
	}
}

// Where nothing can be read nothing is wrong.
func TestWhatCannotBeReadIsNoFault(t *testing.T) {
	found := look(t, nil)
	all := make([]Finding, 0, len(found))
	for _, f := range found {
		all = append(all, f)
	}
	if w := Worst(all); w != OK || found["memory"].State != Unknown || found["open files"].State != Unknown {
		t.Errorf("worst is %s: %+v", w, all)
	}
	root := t.TempDir()
	write(t, root, fit)
	for path, was := range fit {
		for _, text := range []string{"", "x", "-5 -5 -5", "99999999999999999999"} {
			write(t, root, map[string]string{path: text})
			lookAt(t, root)
		}
		write(t, root, map[string]string{path: was})
	}
}

func TestTheWorstState(t *testing.T) {
	for want, states := range map[State][]State{OK: {OK, Unknown}, Warn: {Unknown, Warn, OK}, Fail: {Warn, Fail, Warn}} {
		var all []Finding
		for _, s := range states {
			all = append(all, Finding{State: s})
		}
		if got := Worst(all); got != want {
			t.Errorf("%v: got %s", states, got)
		}
	}
}
