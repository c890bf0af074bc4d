// Package hostile holds no code, only tests: they start the command as a process of its
// own, treat it as badly as clients can, and look at it from outside: the frames that it
// answers, its exit code, and what the kernel says of its memory and descriptors.
//
//	go test ./cmd/millrace/hostile                        # what CI runs, under a minute
//	go test ./cmd/millrace/hostile -long -timeout 30m     # more clients, longer, memory 60 s later
//	go test ./cmd/millrace/hostile -run Model -seed 7 -rounds 1
//	MILLRACE_BINARY=/path/to/millrace go test ./cmd/millrace/hostile
//
// The tests know the wire contract and the flags, and nothing of what is inside. They
// need Linux's /proc. A figure that a test holds the server to is logged whether it
// passes or not (-v shows it).
package hostile
