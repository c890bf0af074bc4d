package bench

import (
	"flag"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// long turns on the tests that measure for minutes.
var long = flag.Bool("long", false, "run the tests that measure for minutes")

// peersBin is where tests build the peers, once.
var peersBin string

func TestMain(m *testing.M) {
	RunGenerator()
	flag.Parse()
	dir, err := os.MkdirTemp("", "bench-peers-")
	if err != nil {
		panic(err)
	}
	peersBin = dir
	code := m.Run()
	_ = os.RemoveAll(dir)
	if code != 0 {
		os.Exit(code)
	}
	ignored := []goleak.Option{ // of gnet, for the life of the process, where a test starts a server in it
		goleak.IgnoreAnyFunction("github.com/panjf2000/ants/v2.(*poolCommon).purgeStaleWorkers"),
		goleak.IgnoreAnyFunction("github.com/panjf2000/ants/v2.(*poolCommon).ticktock"),
		goleak.IgnoreAnyFunction("github.com/panjf2000/ants/v2.(*goWorker).run.func1"),
	}
	if err := goleak.Find(ignored...); err != nil {
		os.Stderr.WriteString(err.Error() + "\n")
		os.Exit(1)
	}
}
