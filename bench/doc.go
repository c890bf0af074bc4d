// Package bench measures servers that speak Millrace's frame and says what is noise.
//
// A [Suite] runs cases (echo/100x32: a hundred connections, 32 requests in flight on each) against
// targets: this project's server, a server that already runs, or peers written with other libraries. Every
// run has a fresh server process; load comes from generator processes; the server's CPU and
// memory are the kernel's account of it; every reply is checked byte for byte and in order. tls-echo/100x32 and
// ws-echo/100x32 are the same behind TLS and WebSocket, cluster-call/64x1/n3 runs over three servers.
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
// A [Ramp] raises the load of a case until the server has had enough, and [Results.Curves] says where that was.
// [Compare] judges two targets or two files, [Results.WriteHTML] draws a page that needs no network, [Load] reads
// a stored file for either, a [Tuner] searches serve's flags for a workload.
//
// New and NewTuner start nothing; Run blocks, calls OnRun on the goroutine that called it, and leaves no
// process and no goroutine behind. A generator process is one epoll loop on one goroutine, whose files end in _linux: on
// other systems everything but the measuring works.
package bench
