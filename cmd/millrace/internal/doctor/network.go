package doctor

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// openFiles checks RLIMIT_NOFILE: each connection needs one file. Go raises the soft limit to the
// hard limit at start.
func openFiles(m *machine, w Want) Finding {
	const check, path = "open files", "/proc/self/limits"
	text, found := m.text(path)
	if !found {
		return unknown(check, path)
	}
	for line := range strings.Lines(text) {
		rest, is := strings.CutPrefix(line, "Max open files")
		f := strings.Fields(rest)
		if !is || len(f) < 2 {
			continue
		}
		hard, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil { // unlimited
			return ok(check, "%s", f[1])
		}
		need := int64(w.Conns + otherFiles)
		if hard < need {
			return Finding{check, Fail, fmt.Sprintf("%d", hard), fmt.Sprintf("%d connections need %d", w.Conns, need),
				fmt.Sprintf("LimitNOFILE=%d in the systemd unit; in a shell, as root, ulimit -n %d", need, need)}
		}
		return ok(check, "%d, %d connections need %d", hard, w.Conns, need)
	}
	return unknown(check, path)
}

// allFiles checks the limits of the whole machine.
func allFiles(m *machine, w Want) Finding {
	const check = "open files of the whole machine"
	most, found := m.number("/proc/sys/fs/file-max", 0)
	if !found {
		return unknown(check, "/proc/sys/fs/file-max")
	}
	need := int64(w.Conns + otherFiles)
	if most < 2*need {
		return Finding{check, Fail, fmt.Sprintf("fs.file-max is %d", most), "the server takes more than half of it", sysctl("fs.file-max", 4*need)}
	}
	if each, found := m.number("/proc/sys/fs/nr_open", 0); found && each < need {
		return Finding{check, Fail, fmt.Sprintf("fs.nr_open is %d", each), "no process can open more", sysctl("fs.nr_open", 2*need)}
	}
	return ok(check, "fs.file-max is %d", most)
}

// backlog checks how many connections may wait for accept on each listening socket.
func backlog(m *machine, _ Want) Finding {
	const check, path, least = "listen backlog", "/proc/sys/net/core/somaxconn", 1024
	n, found := m.number(path, 0)
	if !found {
		return unknown(check, path)
	}
	if n < least {
		return Finding{check, Warn, fmt.Sprintf("net.core.somaxconn is %d", n),
			"when many clients connect at once, as after a restart, some wait for a second or more", sysctl("net.core.somaxconn", 4096)}
	}
	return ok(check, "net.core.somaxconn is %d", n)
}

// portRange checks where the ports of outgoing connections come from. A port in that range that is
// not reserved may be in use when the server starts.
func portRange(m *machine, w Want) Finding {
	const check, path = "port range", "/proc/sys/net/ipv4/ip_local_port_range"
	low, found := m.number(path, 0)
	high, found2 := m.number(path, 1)
	if !found || !found2 {
		return unknown(check, path)
	}
	what := fmt.Sprintf("outgoing connections take ports %d to %d", low, high)
	if port := int64(w.Port); port >= low && port <= high && !m.reserved(port) {
		return Finding{check, Warn, what, fmt.Sprintf("one of them may be using port %d when the server starts", port), sysctl("net.ipv4.ip_local_reserved_ports", port)}
	}
	if high-low < 10_000 {
		return Finding{check, Warn, what, "a machine that opens many connections, as for bench, runs out of ports", sysctl("net.ipv4.ip_local_port_range", `"15000 65000"`)}
	}
	return ok(check, "%s", what)
}

// reserved reports whether a port is never used for outgoing connections.
func (m *machine) reserved(port int64) bool {
	list, _ := m.text("/proc/sys/net/ipv4/ip_local_reserved_ports")
	for part := range strings.SplitSeq(list, ",") {
		low, high, isRange := strings.Cut(strings.TrimSpace(part), "-")
		from, err := strconv.ParseInt(low, 10, 64)
		if err != nil {
			continue
		}
		to := from
		if isRange {
			if to, err = strconv.ParseInt(high, 10, 64); err != nil {
				continue
			}
		}
		if port >= from && port <= to {
			return true
		}
	}
	return false
}

// tcpMemory checks the memory that all sockets of the machine may use, in pages: above the second
// number the kernel shrinks windows, above the third it drops packets.
func tcpMemory(m *machine, w Want) Finding {
	const check, path, each = "TCP memory", "/proc/sys/net/ipv4/tcp_mem", 8 << 10
	page := int64(os.Getpagesize())
	pages, found := m.number(path, 1)
	if !found {
		return unknown(check, path)
	}
	if need := int64(w.Conns) * each; pages*page < need {
		return Finding{check, Warn, fmt.Sprintf("net.ipv4.tcp_mem limits memory from %s on", bytes(pages*page)),
			fmt.Sprintf("%d connections that use %s each get less than they need", w.Conns, bytes(each)),
			sysctl("net.ipv4.tcp_mem", fmt.Sprintf(`"%d %d %d"`, need/page, 2*need/page, 4*need/page))}
	}
	return ok(check, "net.ipv4.tcp_mem limits memory from %s on", bytes(pages*page))
}

// connectionTracking checks netfilter's connection table: packets of connections that do not fit
// are dropped.
func connectionTracking(m *machine, w Want) Finding {
	const check, path = "connection tracking", "/proc/sys/net/netfilter/nf_conntrack_max"
	n, found := m.number(path, 0)
	if !found {
		return ok(check, "none")
	}
	if n < 2*int64(w.Conns) {
		return Finding{check, Fail, fmt.Sprintf("net.netfilter.nf_conntrack_max is %d", n),
			fmt.Sprintf("%d connections, and those that have just ended, do not fit: packets are dropped", w.Conns), sysctl("net.netfilter.nf_conntrack_max", 4*w.Conns)}
	}
	return ok(check, "net.netfilter.nf_conntrack_max is %d", n)
}

// synCookies checks the defence against SYN floods.
func synCookies(m *machine, _ Want) Finding {
	const check, path = "SYN cookies", "/proc/sys/net/ipv4/tcp_syncookies"
	n, found := m.number(path, 0)
	switch {
	case !found:
		return unknown(check, path)
	case n == 0:
		return Finding{check, Warn, "off", "a flood of SYNs keeps clients out", sysctl("net.ipv4.tcp_syncookies", 1)}
	}
	return ok(check, "on")
}

// drops checks how many connections the machine has lost since it started.
func drops(m *machine, _ Want) Finding {
	const check, path = "lost connections", "/proc/net/netstat"
	text, found := m.text(path)
	if !found {
		return unknown(check, path)
	}
	lines := strings.Split(text, "\n")
	for i := 0; i+1 < len(lines); i += 2 {
		names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
		for j, name := range names {
			if name != "ListenOverflows" || j >= len(values) {
				continue
			}
			if n := values[j]; n != "0" {
				return Finding{check, Warn, n + " since the machine started", "a listening socket's backlog was full; not necessarily this server's",
					"see that net.core.somaxconn is large and that the server is not stalled; nstat -az TcpExtListenOverflows keeps counting"}
			}
			return ok(check, "none since the machine started")
		}
	}
	return unknown(check, path)
}
