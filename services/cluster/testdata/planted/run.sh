#!/bin/sh
# Plants each bug of this folder into a copy of the package's files and runs the
# histories of processes, and the test of a deaf waiter, on it: all must be found. In the package's folder:
#
#	sh testdata/planted/run.sh [histories, default 20]
#
# deaf-watch-is-death  who hears nothing of a holder for a lease takes it for dead,
#                      without asking the servers; in histories two safeguards
#                      mostly hide it (who can't renew takes nothing, and the one
#                      that is robbed hears of it at once), so the test of a
#                      waiter that hears nothing, whose holder is well, runs too
# token-from-memory    the fencing token is a count of the process, not the
#                      sequence of the write
# check-before-write   a lock that was seen free is written whatever stands there
set -eu
runs=${1:-20}
here=$(pwd)
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
missed=0
for patch in "$here"/testdata/planted/*.patch; do
	name=$(basename "$patch" .patch)
	file=$(sed -n 's,^--- a/,,p' "$patch")
	cp "$file" "$copy/$file"
	patch -s "$copy/$file" "$patch"
	printf '{"Replace":{"%s":"%s"}}\n' "$here/$file" "$copy/$file" >"$copy/overlay.json"
	go test -c -overlay "$copy/overlay.json" -o "$copy/test" .
	"$copy/test" -test.run '^(TestHistoriesOfProcesses|TestADeafWaiterDoesNotTakeALockThatIsHeld)$' -histories "$runs" -test.parallel 8 -test.timeout 10m >"$copy/log" 2>&1 || true
	found=$(grep -c -- '--- FAIL: .*/seed=' "$copy/log" || true)
	echo "$name: found in $found of $runs histories"
	grep -h 'histories_test.go.*\(locks:\|registers\)' "$copy/log" | head -2
	deaf=$(grep -c -- '--- FAIL: TestADeafWaiter' "$copy/log" || true)
	[ "$deaf" -eq 0 ] || echo "$name: found by a waiter that hears nothing"
	[ "$found" -gt 0 ] || [ "$deaf" -gt 0 ] || missed=1
done
exit $missed
