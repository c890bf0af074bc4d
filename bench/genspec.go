package bench

import "time"

// genSpec is the parent's specification for a generator process, one line of JSON on its stdin.
type genSpec struct {
	Workload
	Addrs  []string      `json:"addrs"`            // addresses that connections use in turn
	Flood  string        `json:"flood,omitempty"`  // address of its half-open handshakes
	Halves int           `json:"halves,omitempty"` // how many of them are this process's
	Names  []string      `json:"names,omitempty"`  // of the nodes: connection i is on node i-1 modulo their number
	First  uint32        `json:"first"`            // number of this process's first connection
	Mine   int           `json:"mine"`             // connections of this process
	Share  float64       `json:"share"`            // its part of Rate
	Stall  time.Duration `json:"stall"`            // longest wait for any reply
	Settle time.Duration `json:"settle"`           // longest wait for outstanding replies after the window
}

// genResult is the last line on its stdout.
type genResult struct {
	Streams  []streamResult `json:"streams,omitempty"` // the first one is what the workload counts
	Lag      *streamResult  `json:"lag,omitempty"`     // open loop: how late the generator itself sent
	Nanos    int64          `json:"nanos"`             // length of its window
	User     time.Duration  `json:"user"`              // its own CPU in the window
	System   time.Duration  `json:"system"`
	Lost     int            `json:"lost,omitempty"` // asked in the window, never answered
	Skip     string         `json:"skip,omitempty"` // the target does not serve this workload
	Error    string         `json:"error,omitempty"`
	Verified uint64         `json:"verified"` // replies checked, warm-up included
}

// Commands of the parent on stdin after the spec, one byte each, and the lines that answer them.
const (
	cmdStart   = 's' // connected: begin the traffic
	cmdMeasure = 'm' // open the window
	cmdEcho    = 'g' // idle: one echo on every connection
	cmdEnd     = 'e' // close the window, finish

	lineConnected = "connected"
	lineEchoed    = "echoed"
)

// generatorEnv, when set, makes RunGenerator take over the process.
const generatorEnv = "BENCH_GENERATOR"
