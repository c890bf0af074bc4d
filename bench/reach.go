package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// reachWait is how long Reach waits for one running server: to connect, and for its first answer.
const reachWait = 3 * time.Second

// maxReachFrame is the longest length of a frame that Reach takes for one, as an answer.
const maxReachFrame = 1 << 20

// ErrUnreachable: a running server does not answer at its address.
var ErrUnreachable = errors.New("bench: unreachable")

// Reach checks before the first run that there is something to measure: a running server answers
// at each of its addresses (ErrUnreachable) and its process exists, and the programs of commands
// can be found. It returns the first fault, and blocks for a few seconds at most.
func (s *Suite) Reach(ctx context.Context) error {
	for _, t := range s.cfg.Targets {
		if err := t.reach(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (t Target) reach(ctx context.Context) error {
	if t.Addr == "" {
		if _, err := exec.LookPath(t.Command[0]); err != nil {
			return fmt.Errorf("bench: command of %s: %w", t.Name, err)
		}
		return nil
	}
	if t.PID != 0 && runtime.GOOS == "linux" {
		if _, err := os.Stat("/proc/" + strconv.Itoa(t.PID)); err != nil {
			return fmt.Errorf("bench: %s has no process %d on this machine", t.Name, t.PID)
		}
	}
	for _, addr := range strings.Split(t.Addr, ",") {
		if doorOf(addr) == "" {
			continue
		}
		if err := answers(ctx, addr); err != nil {
			return fmt.Errorf("%w: %s: %w", ErrUnreachable, addr, err)
		}
	}
	return nil
}

// answers checks that somebody listens at addr, and where that is a plain address, that the echo
// with which the load begins each connection is answered, with whatever frame.
func answers(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, reachWait)
	defer cancel()
	network, at := "tcp", hostPort(addr)
	if path, ok := strings.CutPrefix(addr, "unix://"); ok {
		network, at = "unix", path
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, network, at)
	if err != nil {
		return err
	}
	defer c.Close()
	if doorOf(addr) != doorPlain {
		return nil
	}
	end, _ := ctx.Deadline()
	_ = c.SetDeadline(end) // fails only if the connection has closed, which the next call reports
	if _, err := c.Write(appendFrame(nil, handleEcho, greeting)); err != nil {
		return err
	}
	head := make([]byte, frameHeader)
	if _, err := io.ReadFull(c, head); err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = fmt.Errorf("no answer within %v", reachWait)
		}
		return err
	}
	if n := binary.BigEndian.Uint32(head); n < frameHeader-4 || n > maxReachFrame {
		return fmt.Errorf("the answer begins with %q, which is no frame of the default layout", head)
	}
	return nil
}
