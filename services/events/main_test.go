package events_test

import (
	"context"
	"io"
	"log/slog"
	"os"
	"testing"

	"go.uber.org/goleak"

	"millrace/services"
)

func TestMain(m *testing.M) {
	if url := os.Getenv("MILLRACE_DURABLE_CHILD"); url != "" {
		durableChild(url)
		return
	}
	if url := os.Getenv("MILLRACE_LEASE_CHILD"); url != "" {
		leaseChild(url)
		return
	}
	goleak.VerifyTestMain(m,
		// gnet keeps one ants pool for the life of the process
		goleak.IgnoreAnyFunction("github.com/panjf2000/ants/v2.(*poolCommon).purgeStaleWorkers"),
		goleak.IgnoreAnyFunction("github.com/panjf2000/ants/v2.(*poolCommon).ticktock"),
		goleak.IgnoreAnyFunction("github.com/panjf2000/ants/v2.(*goWorker).run.func1"))
}

var (
	background = context.Background()
	quiet      = slog.New(slog.NewTextHandler(io.Discard, nil))
	hPush      = services.Handle(4, 6)
)

// event is what the tests store.
type event struct {
	ID     int     `json:"id"`
	LateMS float64 `json:"late_ms"`
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}
