# Targets: build, test (all that CI checks), race, fuzz, lint, cross, narrow, held, counts, norace, cores, bench-guard, peers, bench, benchcmp, bench-suite, bench-long, histories, planted, sim, mutants, soak, hazards, govulncheck, licences, reproducible, module, install, uninstall, release, run.

GO         ?= go
GOTEST     := GO="$(GO)" .ci/gotest
BINARY     ?= millrace
PREFIX     ?= /usr/local
SYSCONFDIR ?= /etc
FUZZTIME   ?= 1s
TIMEOUT    ?= 20m
PKGS       ?= ./...
BENCH      ?= .
COUNT      ?= 6
CROSS      := darwin/arm64 windows/386 linux/386 linux/arm64 linux/arm
NARROW     := ./codec ./services/serial ./timerwheel ./engine/internal/...
COUNTS     := Limit|Memory|Budget|Held|Outbound|Pending|Size|Config|Stat|Tick|Wrap|Bounded
STATIC     := honnef.co/go/tools/cmd/staticcheck@v0.7.0
SEEDS      ?= 20000
ALONE      := engine/internal/gnetio|timerwheel|bench|cmd/millrace/hostile
SOAK       ?= 10m
GUARDLAST  ?= $(lastword $(sort $(wildcard bench/results/*-pinned.jsonl)))
GUARDCASES ?= echo/1x1 echo/100x1 echo/1000x1 echo/100x32 echo/1000x16 echo/100x8/4KiB broadcast/1000x1 broadcast/1000x8
GUARDFLAGS ?= --reps 7 --window 500ms --warm 200ms
VULNCHECK  := golang.org/x/vuln/cmd/govulncheck@v1.9.0
VULNDB     ?= https://vuln.go.dev
BENCHSTAT  := golang.org/x/perf/cmd/benchstat@v0.0.0-20250813145418-2f7363a06fe1

.PHONY: build test race fuzz lint cross narrow held counts norace cores bench-guard peers bench benchcmp bench-suite bench-long histories planted sim mutants soak hazards govulncheck licences reproducible module install uninstall release run clean

build:
	$(GO) build -trimpath -o $(BINARY) ./cmd/millrace

# The race tests come last, so that their summary is what a run ends with. They wait more than they
# work, so what is only read and compiled is beside them, with what they leave of the processors.
# All is compiled as build compiles it, nothing twice, and go test does not vet what lint has vetted.
test: export GOFLAGS := $(GOFLAGS) -trimpath
test: export NOVET := -vet=off
test: build narrow held counts norace fuzz
	@out=$$(mktemp) || exit 1; nice -n 19 $(MAKE) --no-print-directory lint cross peers >$$out 2>&1 & beside=$$!; \
	$(MAKE) --no-print-directory race; rc=$$?; \
	wait $$beside || { rc=1; echo "make lint cross peers failed:"; cat $$out; }; rm -f $$out; exit $$rc

# What a server says that it holds beside its heap, which the race detector changes, and the
# simulation from 200 seeds of each scenario, which it makes eight times as slow.
held:
	$(GOTEST) $(NOVET) -- ./engine/heldtest
	$(GOTEST) $(NOVET) -run '^TestSim$$' -- ./engine/enginetest
	$(GOTEST) $(NOVET) -run '^TestTown$$' -- ./services/servicestest

# What a frame costs in allocations, system calls and locks, which have to be counted.
counts:
	$(GOTEST) $(NOVET) -- ./engine/frametest
	$(GOTEST) $(NOVET) -tags tally -- ./engine/frametest

# The tests that skip where the race detector runs, as it changes what they count. They are
# found by that, so that none is run nowhere.
norace:
	@set -e; for dir in $$(git ls-files '*_test.go' | xargs grep -lE 'if (underRace|raceEnabled|slack > 1) \{|^//go:build .*!race' | xargs -n 1 dirname | sort -u); do \
		names=$$(awk 'FNR == 1 { all = 0 } /^\/\/go:build .*!race/ { all = 1 } /^func Test/ { name = $$2; sub(/\(.*/, "", name); if (all) print name } \
			/if (underRace|raceEnabled|slack > 1) \{/ { print name }' $$dir/*_test.go | sort -u | paste -sd'|'); \
		test -z "$$names" || { echo "$(GO) test ./$$dir -run '^($$names)\$$'"; $(GOTEST) $(NOVET) -timeout $(TIMEOUT) -run "^($$names)\$$" -- ./$$dir; }; \
	done

# The counts of a frame with 2 to 32 processors and loops, whatever the machine has: the tables of
# docs/sharing.md.
cores:
	$(GO) test -tags tally ./engine/frametest -run '^TestLocksDoNotGrowWithLoops$$' -count 1 -cores -v -timeout 10m

# The suite's pinned cases again, beside raw gnet, against the last dated run: exit code 1 if
# something got worse by more than noise and a tenth. Wants a quiet machine, and ten minutes.
bench-guard: build
	@test -n "$(GUARDLAST)" || { echo "there is no bench/results/*-pinned.jsonl"; exit 1; }
	./millrace bench --pinned --peers gnet --base gnet --serve='--dispatch inline' \
		--variant ordered='--dispatch ordered' --variant adaptive='--dispatch adaptive' \
		$(addprefix --case ,$(GUARDCASES)) $(GUARDFLAGS) --json bench-guard.jsonl
	@set -e; for t in millrace ordered adaptive; do echo "$$t, against $(GUARDLAST)"; ./millrace bench compare $(GUARDLAST) bench-guard.jsonl --target $$t; done

# What is compiled first uses every core. Two packages at a time, as their tests wait most of the
# time, and one of those that measure times. PKGS narrows it. What failed or is unsteady is told once
# more at the end, the packages last: a test that hangs prints thousands of lines behind its name. It
# is all well only if both runs have said so.
race:
	$(GO) build -race $(PKGS)
	@pkgs=$$($(GO) list $(PKGS)) && out=$$(mktemp) || exit 1; \
	tests() { test -z "$$2" || $(GOTEST) $(NOVET) -race -p $$1 -timeout $(TIMEOUT) -- $$2; }; \
	{ tests 2 "$$(echo "$$pkgs" | grep -vE '/($(ALONE))$$')" 2>&1; first=$$?; \
	tests 1 "$$(echo "$$pkgs" | grep -E '/($(ALONE))$$')" 2>&1; test $$first$$? = 00 && touch $$out.ok; } | tee $$out; \
	rc=0; test -e $$out.ok || { rc=1; echo "What failed:"; \
	grep -aE -A3 '^ *--- FAIL|^panic:|^fatal error:|^\s+running tests:|DATA RACE|^(vet: )?[^ ]+\.go:[0-9]+:[0-9]+:' $$out | grep -avE '^(ok|FAIL)' | head -100; \
	grep -aE '^FAIL\s' $$out | head -50; }; \
	grep -a -A20 '^Unsteady' $$out; \
	rm -f $$out $$out.ok; exit $$rc

lint:
	@files=$$(git ls-files '*.go'); out=$$(gofmt -l $${files:-.}) || exit 1; test -z "$$out" || { echo "gofmt -w is due for:"; echo "$$out"; exit 1; }
	$(GO) vet ./...
	$(GO) vet -race -tags tally ./internal/tally ./engine/internal/bufpool
	$(GO) run $(STATIC) ./...

# What can't work on another system says so when it starts; it compiles everywhere, the tests
# too, and where an int is narrow. Nothing of it is run.
cross:
	$(GO) run ./internal/crosscheck $(CROSS)

# Where an int has 32 bits: the tests of what counts and measures, run as linux/386, on a system that
# runs such programs.
narrow:
	@set -e; export CGO_ENABLED=0 GOOS=linux GOARCH=386; \
	$(GO) test -run '^$$' ./internal/modpath >/dev/null 2>&1 || { echo "linux/386 does not run here"; exit 0; }; \
	set -x; $(GO) test $(NOVET) -short -timeout $(TIMEOUT) $(NARROW); \
	$(GO) test $(NOVET) -short -run '$(COUNTS)' -timeout $(TIMEOUT) ./engine

# The competitors are a module of their own.
peers:
	@if test -f bench/peers/go.mod; then cd bench/peers && $(GO) build ./... && $(GO) vet ./...; fi

# Every Fuzz function for FUZZTIME; one that fails leaves its input in testdata. Go ends
# some that found nothing with this message, when their time is up within a call
# (https://go.dev/issue/75804): those pass. For a second each the inputs are led by what they reach
# in the package itself; for longer by all that it links, which is compiled once more for that.
# PKGS narrows it.
INSTRUMENT ?= $(if $(filter 1s,$(FUZZTIME)),-gcflags=-d=libfuzzer,-fuzz=.)
fuzz:
	@set -e; cache=$$($(GO) env GOCACHE)/fuzz; bin=$$(mktemp -d); trap 'rm -rf "$$bin"' EXIT; \
	$(GO) list -f '{{.ImportPath}} {{.Dir}}' $(PKGS) >$$bin/list; \
	while read -r pkg dir; do \
		all=$$(cat $$dir/*_test.go 2>/dev/null | grep -oE '^func Fuzz[A-Za-z0-9_]+' | cut -c6-); test -n "$$all" || continue; \
		$(GO) test -c $(INSTRUMENT) -o $$bin/test $$pkg; \
		for f in $$all; do \
			echo "fuzz $$pkg $$f $(FUZZTIME)"; \
			(cd $$dir && $$bin/test -test.run '^$$' -test.fuzz "^$$f\$$" -test.fuzztime $(FUZZTIME) -test.fuzzcachedir $$cache/$$pkg) >fuzz.out 2>&1 </dev/null || \
				grep -qx ' *context deadline exceeded' fuzz.out && ! grep -q 'Failing input' fuzz.out || \
				{ cat fuzz.out; exit 1; }; \
		done; \
	done <$$bin/list; rm -f fuzz.out

bench:
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem -count $(COUNT) ./... | tee bench.out

# The benchmark suite's own first table; and its long tests.
bench-suite: build
	./millrace bench --quick

bench-long:
	$(GO) test ./bench -run 'Lock|Ten' -long -timeout 30m

# What processes share: 200 recorded histories of locks and values and 100 of users and rooms
# under faults; and 20 for each bug that they must find when it is planted.
histories:
	$(GO) test ./services/cluster -run '^TestHistoriesOfProcesses$$' -long -timeout 60m
	$(GO) test ./services/nodes -run '^TestHistoriesOfNodes$$' -long -timeout 60m

planted:
	$(GO) test ./services/cluster ./services/nodes -run Planted -long -v -timeout 30m

# The simulation, from SEEDS seeds of each scenario; that a seed is one run with the race
# detector too; and how many seeds it takes to find each of a list of planted bugs.
sim:
	ENGINETEST_SEEDS=$(SEEDS) $(GO) test ./engine/enginetest -run '^TestSim$$' -v -timeout 0
	ENGINETEST_SEEDS=$(SEEDS) $(GO) test ./services/servicestest -run '^TestTown$$' -v -timeout 0
	$(GO) test ./engine/enginetest -run '^TestSameSeed' -long -timeout 30m

mutants:
	$(GO) test ./engine/enginetest -run '^TestMutants$$' -long -v -timeout 0

# The server with its database through everything at once, for so long; soak.json is the report.
soak:
	$(GO) test ./cmd/millrace/soak -run '^TestSoak$$' -count 1 -soak $(SOAK) -report $(CURDIR)/soak.json -v -timeout 0

# The tests that docs/hazards.md names, and no others.
hazards:
	@set -e; grep -E '^\| [0-9]+ \|' docs/hazards.md | cut -d'|' -f5 | tr ';' '\n' | tr -d '`,' | \
	awk '{ sub(":", "", $$1); for (i = 2; i <= NF; i++) t[$$1] = t[$$1] "|" $$i } END { for (p in t) print p, substr(t[p], 2) }' | sort | \
	while read -r pkg tests; do $(GO) test -count 1 -timeout $(TIMEOUT) -run "^($$tests)\$$" ./$$pkg </dev/null; done

# Asks the network for the tool and its database; VULNDB=file:///DIR is a copy of the latter.
govulncheck:
	$(GO) run $(VULNCHECK) -db $(VULNDB) -test ./...

# Writes docs/licences.md; a test compares it.
licences:
	$(GO) run ./internal/licences -w docs/licences.md

# The command, its manual, completions and unit below PREFIX, and its settings unless there
# are some; DESTDIR stands in front of all, for who makes packages.
install: build
	install -D -m 755 $(BINARY) '$(DESTDIR)$(PREFIX)/bin/millrace'
	install -d '$(DESTDIR)$(PREFIX)/share/man/man1' '$(DESTDIR)$(PREFIX)/lib/systemd/system' '$(DESTDIR)$(SYSCONFDIR)/millrace' $(COMPLETIONS:%='$(DESTDIR)$(PREFIX)/share/%')
	'$(DESTDIR)$(PREFIX)/bin/millrace' man >'$(DESTDIR)$(PREFIX)/share/man/man1/millrace.1'
	'$(DESTDIR)$(PREFIX)/bin/millrace' completion bash >'$(DESTDIR)$(PREFIX)/share/bash-completion/completions/millrace'
	'$(DESTDIR)$(PREFIX)/bin/millrace' completion zsh >'$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_millrace'
	'$(DESTDIR)$(PREFIX)/bin/millrace' completion fish >'$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/millrace.fish'
	sed -e 's,/usr/local/bin/,$(PREFIX)/bin/,' -e 's,/etc/millrace/,$(SYSCONFDIR)/millrace/,' packaging/millrace.service >'$(DESTDIR)$(PREFIX)/lib/systemd/system/millrace.service'
	test -e '$(DESTDIR)$(SYSCONFDIR)/millrace/millrace.toml' || install -m 644 packaging/millrace.toml '$(DESTDIR)$(SYSCONFDIR)/millrace/millrace.toml'

COMPLETIONS := bash-completion/completions zsh/site-functions fish/vendor_completions.d

# The settings stay.
uninstall:
	rm -f '$(DESTDIR)$(PREFIX)/bin/millrace' '$(DESTDIR)$(PREFIX)/share/man/man1/millrace.1' '$(DESTDIR)$(PREFIX)/lib/systemd/system/millrace.service' \
		'$(DESTDIR)$(PREFIX)/share/bash-completion/completions/millrace' '$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_millrace' \
		'$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/millrace.fish'

# Archives, checksums and lists of what is in them, in dist: the same bytes in any two runs.
release:
	packaging/release.sh dist

# Gives the module another path, everywhere: make module PATH=example.com/millrace. PATH is then
# not where programs are, so that of make itself is taken.
ifeq ($(origin PATH),command line)
MODULE := $(PATH)
override PATH := $(or $(shell /usr/bin/tr '\000' '\n' </proc/$$PPID/environ | /usr/bin/sed -n 's/^PATH=//p'),/usr/local/go/bin:/usr/local/bin:/usr/bin:/bin)
endif
module:
	@test -n '$(MODULE)' || { echo "say which: make module PATH=example.com/millrace"; exit 1; }
	@$(GO) run ./internal/rename '$(MODULE)'

# The last commit, built in two places, from nothing, by differing environments: the same bytes.
reproducible:
	@set -e; top=$$(mktemp -d); trap 'rm -rf "$$top"' EXIT; export CGO_ENABLED=0 GOFLAGS=; \
	for at in one "another place/deeper"; do \
		mkdir -p "$$top/$$at"; git clone -q --no-hardlinks . "$$top/$$at/src"; \
		(cd "$$top/$$at/src" && GOCACHE="$$top/$$at/cache" $(GO) build -trimpath -buildvcs=true -ldflags=-buildid= -o ../millrace ./cmd/millrace); \
		export TZ=Asia/Tokyo GOMAXPROCS=1 USER=somebody; umask 077; sleep 1; \
	done; \
	sha256sum "$$top"/*/millrace "$$top"/*/*/millrace | sed "s,$$top/,,"; \
	cmp "$$top/one/millrace" "$$top/another place/deeper/millrace"; \
	"$$top/one/millrace" version

# make bench, change something, then make benchcmp: both runs side by side.
benchcmp:
	@test -f bench.out || { echo "run make bench first"; exit 1; }
	mv bench.out bench-before.out
	$(MAKE) bench
	$(GO) run $(BENCHSTAT) bench-before.out bench.out

run: build
	./millrace bench --quick

clean:
	rm -rf dist
	rm -f millrace bench.out bench-before.out bench-guard.jsonl fuzz.out soak.json
