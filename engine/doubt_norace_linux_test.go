//go:build !race

package engine

import (
	"os/exec"
	"testing"
	"time"

	"millrace/internal/proctest"
)

// A handler that only computes a little stays on the loop, although the machine's other programs
// have the loop's thread put aside for long in the middle of it.
func TestATurnPutAsideIsNotHeldAgainstItsHandle(t *testing.T) {
	var c *child
	proctest.OnOneProcessor(t, func() {
		c = spawn(t, childConfig{Config: Config{Loops: 1}})
		for range 4 {
			cmd := exec.Command("sh", "-c", "while :; do :; done")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
		}
	})
	cl := c.dial()
	var batch []byte
	for range 64 {
		batch = append(batch, frame(1, 6, "")...)
	}
	run := func() (long int) {
		cl.Write(batch)
		for range 64 {
			p, err := cl.read()
			if err != nil {
				t.Fatal(err)
			}
			if string(p.Body) == "true" {
				long++
			}
		}
		return long
	}
	waitFor(t, "the handle to go inline", func() bool {
		before := c.stats().Loops[0].Inline
		run()
		return c.stats().Loops[0].Inline > before
	})
	long := 0
	for began := time.Now(); long < 8; long += run() {
		if time.Since(began) > 2*time.Minute {
			t.Fatalf("put aside %d times in two minutes", long)
		}
	}
	st := c.stats()
	t.Logf("put aside %d times, %d of %d inline, handed over %d times", long, st.Loops[0].Inline, st.Loops[0].FramesIn, st.Loops[0].HandOver)
	if st.Demoted > 2 { // it is not exact, see doubt
		t.Errorf("%d demoted, having been put aside %d times", st.Demoted, long)
	}
}
