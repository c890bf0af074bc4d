#!/usr/bin/env bash
# Makes the release of the last commit: for each system an archive with a static binary, its
# manual, completions, unit and licences; for each a list of what is in it (CycloneDX); and
# SHA256SUMS. Two runs, anywhere, make the same bytes.
#
#	packaging/release.sh [DIR]             DIR is dist unless told otherwise
#	SYSTEMS=linux/arm64 packaging/release.sh
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(mkdir -p "${1:-dist}" && cd "${1:-dist}" && pwd)
systems=${SYSTEMS:-linux/amd64 linux/arm64}
export LC_ALL=C TZ=UTC CGO_ENABLED=0 GOFLAGS="" GOWORK=off
umask 022

top=$(mktemp -d)
trap 'rm -rf "$top"' EXIT
git clone -q --no-hardlinks . "$top/src" # nothing that is not committed
cd "$top/src"
version=$(git describe --tags --always --abbrev=12)
when=$(git log -1 --format=%ct)

mkdir "$top/tools"
go build -trimpath -buildvcs=true -ldflags=-buildid= -o "$top/tools/millrace" ./cmd/millrace # for this system
for shell in bash zsh fish; do "$top/tools/millrace" completion $shell >"$top/tools/$shell"; done
"$top/tools/millrace" man >"$top/tools/millrace.1"

for system in $systems; do
	os=${system%/*} arch=${system#*/}
	name=millrace-$version-$os-$arch
	dir=$top/$name
	mkdir -p "$dir/completions"
	GOOS=$os GOARCH=$arch go build -trimpath -buildvcs=true -ldflags=-buildid= -o "$dir/millrace" ./cmd/millrace
	cp LICENSE README.md CHANGELOG.md docs/licences.md packaging/millrace.service packaging/millrace.toml "$top/tools/millrace.1" "$dir"
	cp "$top/tools/bash" "$dir/completions/millrace.bash"
	cp "$top/tools/zsh" "$dir/completions/_millrace"
	cp "$top/tools/fish" "$dir/completions/millrace.fish"
	tar -C "$top" --sort=name --mtime="@$when" --owner=0 --group=0 --numeric-owner --format=ustar -cf - "$name" | gzip -9n >"$out/$name.tar.gz"
	go run ./internal/sbom -licences docs/licences.md "$dir/millrace" >"$out/$name.cdx.json"
done
cd "$out"
sha256sum millrace-"$version"-* >SHA256SUMS
cat SHA256SUMS
