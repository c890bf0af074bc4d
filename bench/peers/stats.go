package main

import (
	"encoding/json"
	"os"
	"runtime"
	"strconv"
	"syscall"
)

// serveStats answers the suite's questions about this process's runtime, as package
// bench/selfstats does; it is written again here because this module stands alone.
func serveStats() {
	fd, err := strconv.Atoi(os.Getenv("BENCH_STATS_FD"))
	if err != nil || fd < 3 || syscall.SetNonblock(fd, true) != nil {
		return
	}
	f := os.NewFile(uintptr(fd), "stats")
	go func() {
		defer f.Close()
		var b [1]byte
		for {
			if _, err := f.Read(b[:]); err != nil {
				return
			}
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			line, err := json.Marshal(map[string]uint64{
				"goroutines": uint64(runtime.NumGoroutine()), "mallocs": m.Mallocs, "heap": m.HeapAlloc,
				"gc": uint64(m.NumGC), "pause": m.PauseTotalNs,
			})
			if err != nil {
				return
			}
			if _, err := f.Write(append(line, '\n')); err != nil {
				return
			}
		}
	}()
}
