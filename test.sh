#!/usr/bin/env bash
# All checks and tests, set-up included. Go is all that has to be there.
#
#	./test.sh                       installs what is missing, then runs make test
#	./test.sh setup                 only installs
#	./test.sh race PKGS=./codec     installs, then runs make with these arguments
#
# What the tests need beside Go comes from Debian's or Ubuntu's packages, as root or by sudo.
# Where that is impossible one line names what is missing: without the compiler and make
# nothing runs, without the others the tests that need them skip, and say so.
set -euo pipefail
cd "$(dirname "$0")"

say() { echo "test.sh: $*" >&2; }

# Go is often not in the PATH of root, nor /usr/sbin in that of others; Debian keeps PostgreSQL's
# programs out of all.
find_programs() {
	local d
	for d in /usr/local/go/bin /usr/sbin /usr/lib/postgresql/*/bin; do
		case ":$PATH:" in *":$d:"*) continue ;; esac
		if [ -d "$d" ]; then PATH="$PATH:$d"; fi
	done
	export PATH
}

# look notes what is missing in musts and others, as names of packages.
look() {
	musts="" others=""
	must gcc gcc # the race detector links with cgo
	must /usr/include/stdio.h libc6-dev
	must make make
	must /etc/ssl/certs/ca-certificates.crt ca-certificates # the Go modules come by HTTPS
	need git git                                            # the list of files, and the commit in the binary
	need python3 python3
	need g++ g++                                         # the peers in C++
	need chromium-headless-shell chromium-headless-shell # opens the benchmark's report, and the pages
	need postgres postgresql
	need openssl openssl                                       # a client of the TLS door
	need node nodejs                                           # the TypeScript client and the chat's page; their tests skip below 20
	need npm npm                                               # and installs what these are built and driven with
	need curl curl                                             # a client of the WebSocket door that asks for no upgrade
	need script bsdutils                                       # a terminal for top
	need ps procps                                             # shows whether a password stands in a command line
	need tcpdump tcpdump                                       # reads recordings
	need haproxy haproxy                                       # sends PROXY headers
	need /usr/share/nodejs/ws node-ws                          # and a client of the TLS and WebSocket doors
	need /usr/lib/python3/dist-packages/websockets python3-websockets
	need pgbouncer pgbouncer # stands between server and database
	need promtool prometheus # reads the metrics, and evaluates the alert rules
	need javac default-jdk-headless          # the programs of Netty: one that is moved from, and a peer
	need /usr/share/java/netty-handler.jar libnetty-java
	need erlc erlang-base    # a peer
	need ip iproute2         # takes a link down, to see a dead peer
	need mandoc mandoc       # checks the manual page
	need zsh zsh             # completes command lines
	need fish fish
	need /usr/include/boost/asio.hpp libboost-dev
	need /usr/include/openssl/ssl.h libssl-dev # a peer with TLS in C++
}

# must and need WHAT PACKAGE: WHAT is a command or a file.
must() { if ! has "$1"; then musts="$musts $2"; fi; }
need() { if ! has "$1"; then others="$others $2"; fi; }
has() { command -v "$1" >/dev/null || [ -e "$1" ]; }

# root runs a command as root, or fails.
root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	elif command -v sudo >/dev/null && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then
		sudo "$@"
	else
		return 1
	fi
}

# install installs packages: all at once, else each that can be. Servers among them are not
# started, unless this machine has a policy of its own.
install() {
	command -v apt-get >/dev/null || return 0
	root true || return 0
	say "installing, which takes some minutes: $*"
	root apt-get update -qq || true
	local policy=/usr/sbin/policy-rc.d
	if [ -e $policy ]; then policy=""; else
		printf '#!/bin/sh\nexit 101\n' | root tee $policy >/dev/null
		root chmod 755 $policy
		trap 'root rm -f /usr/sbin/policy-rc.d' EXIT # by ^C too
	fi
	if ! apt "$@"; then
		local p
		for p in "$@"; do apt "$p" || say "can't install $p"; done
	fi
	if [ -n "$policy" ]; then
		root rm -f "$policy"
		trap - EXIT
	fi
}
# apt installs packages. What it says is shown when it fails.
apt() {
	local told
	told=$(root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" 2>&1) || {
		echo "$told" | tail -n 5 >&2
		return 1
	}
}

find_programs
if ! command -v go >/dev/null; then
	say "Go is missing: https://go.dev/doc/install"
	exit 1
fi
look
if [ -n "$musts$others" ]; then
	# shellcheck disable=SC2086 # words
	install $musts $others
	find_programs
	look
fi
how="apt-get install --no-install-recommends"
if [ -n "$musts" ]; then
	say "nothing can run without$musts; as root: $how$musts$others"
	exit 1
fi
if [ -n "$others" ]; then
	say "some tests will skip without$others; as root: $how$others"
fi
if [ "${1:-}" = setup ]; then exit 0; fi

# A clone that belongs to another user, or is none: Go can't ask for its commit.
if ! git rev-parse HEAD >/dev/null 2>&1; then
	export GOFLAGS="${GOFLAGS:+$GOFLAGS }-buildvcs=false"
fi
exec make "${@:-test}"
