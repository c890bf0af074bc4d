// Package selfstats lets the benchmark suite query a server process about its own runtime:
// goroutines, allocations, heap, garbage collections.
//
// The suite starts a server with one end of a socket pair as descriptor 3 and BENCH_STATS_FD=3 in
// its environment. Serve, called once at the start of the server's main, answers each byte that
// arrives there with a line of JSON. Without the variable it does nothing:
//
//	func main() {
//		selfstats.Serve()
//		…
//	}
package selfstats
