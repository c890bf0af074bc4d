// Package bench measures servers that use Millrace's frame, and separates differences from noise.
//
// A [Suite] runs cases (echo/100x32: a hundred connections, 32 requests in flight on each) against
// targets: this project's server, a server that is already running, or peers written with other
// libraries. Every run uses a fresh server process; the load comes from generator processes; the
// server's CPU and memory are measured by the kernel; every reply is checked byte for byte and in
// order. tls-echo/100x32 and ws-echo/100x32 are the same over TLS and WebSocket,
// cluster-call/64x1/n3 runs over three servers.
//
//	bench.RunGenerator() // first in main: the suite starts this program again as its load generator
//	…
//	suite, err := bench.New(bench.Config{
//		Targets: []bench.Target{bench.MillraceTarget("now", "./millrace"), bench.MillraceTarget("before", "./millrace-before")},
//		Cases:   bench.Quick(),
//	})
//	…
//	results, err := suite.Run(ctx)
//	results.WriteTable(os.Stdout)
//	changes, err := bench.Compare(results, results, bench.CompareConfig{Target: "before", TargetB: "now"})
//
// A [Ramp] raises the load of a case until the server is saturated, and [Results.Curves] reports
// where that was. [Compare] compares two targets or two files, [Results.WriteHTML] writes a
// self-contained page, [Load] reads a stored file for either, a [Tuner] searches for the best flags
// of serve for a workload.
//
// New and NewTuner start nothing; Run blocks, calls OnRun on the goroutine that called it, and
// leaves no process or goroutine running. A generator process is one epoll loop on one goroutine,
// in files named _linux; on other systems everything works except measuring.
package bench
