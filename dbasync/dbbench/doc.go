// Package dbbench measures dbasync beside pgxpool: the same statements, the same
// number of connections, delivery to a worker pool included on both sides, in
// interleaved rounds. It is a library, so that a benchmark suite and go test -bench
// run the same thing.
//
//	if err := dbbench.Prepare(ctx, url); err != nil { … }
//	rep, err := dbbench.Compare(ctx, dbbench.Config{URL: url, Outstanding: 64}, 5)
//	fmt.Println(rep)
//
// The client's CPU is that of this process (getrusage), so nothing else may run in it.
package dbbench
