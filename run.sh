#!/bin/sh
# Starts a server and clients, and prints throughput and latency. Go is all that has to be there.
cd "$(dirname "$0")" || exit
echo "run.sh: the first run downloads modules and compiles, which takes a minute or two" >&2
PATH="$PATH:/usr/local/go/bin" # often not in the PATH of root
exec go run -v ./cmd/millrace bench --quick
