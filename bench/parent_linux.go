package bench

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"
)

// generator is the parent's view of a generator process.
type generator struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string // closed when its stdout ends
	log   *tailBuffer
	last  *genResult // a result that arrived while something else was awaited
}

// startGenerator re-executes this program as a generator; see RunGenerator.
func startGenerator(spec genSpec, cpus []int) (*generator, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("bench: own program: %w", err)
	}
	g := &generator{lines: make(chan string, 8), log: &tailBuffer{}}
	g.cmd = exec.Command(self)
	// One loop needs one processor; a second would only make the runtime's threads spin.
	g.cmd.Env = append(os.Environ(), generatorEnv+"=1", "GOMAXPROCS=1")
	g.cmd.Stderr = g.log
	g.cmd.SysProcAttr = childAttributes()
	if g.in, err = g.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("bench: generator: %w", err)
	}
	out, err := g.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("bench: generator: %w", err)
	}
	if err := startOn(g.cmd, cpus); err != nil {
		return nil, fmt.Errorf("bench: generator: %w", err)
	}
	go g.read(out)
	line, err := json.Marshal(spec)
	if err == nil {
		_, err = g.in.Write(append(line, '\n'))
	}
	if err != nil {
		g.kill()
		return nil, fmt.Errorf("bench: generator: %w", err)
	}
	return g, nil
}

// read runs on its own goroutine until the process closes its stdout.
func (g *generator) read(out io.Reader) {
	defer close(g.lines)
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		g.lines <- lines.Text()
	}
}

func (g *generator) say(c byte) error {
	if _, err := g.in.Write([]byte{c}); err != nil {
		return fmt.Errorf("bench: generator: %w%s", err, g.log.quoted())
	}
	return nil
}

// await waits for a line; a result that arrives instead explains why there will be none.
func (g *generator) await(want string, timeout time.Duration) error {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case line, ok := <-g.lines:
		if !ok {
			return fmt.Errorf("bench: a generator ended%s", g.log.quoted())
		}
		if line == want {
			return nil
		}
		res, err := g.parse(line)
		if err != nil {
			return err
		}
		g.last = res
		return res.verdict()
	case <-timer.C:
		return fmt.Errorf("bench: a generator was not %s after %v", want, timeout)
	}
}

// early returns a result that arrived before it was requested.
func (g *generator) early() (*genResult, bool) {
	if g.last != nil {
		return g.last, true
	}
	select {
	case line, ok := <-g.lines:
		if !ok {
			return &genResult{Error: "bench: a generator ended" + g.log.quoted()}, true
		}
		res, err := g.parse(line)
		if err != nil {
			return &genResult{Error: err.Error()}, true
		}
		g.last = res
		return res, true
	default:
		return nil, false
	}
}

// result waits for the last line.
func (g *generator) result(timeout time.Duration) (*genResult, error) {
	if g.last != nil {
		return g.last, g.last.verdict()
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	for {
		select {
		case line, ok := <-g.lines:
			if !ok {
				return nil, fmt.Errorf("bench: a generator ended%s", g.log.quoted())
			}
			if line == lineEchoed {
				continue
			}
			res, err := g.parse(line)
			if err != nil {
				return nil, err
			}
			return res, res.verdict()
		case <-timer.C:
			return nil, fmt.Errorf("bench: a generator gave no result for %v", timeout)
		}
	}
}

func (g *generator) parse(line string) (*genResult, error) {
	var res genResult
	if err := json.Unmarshal([]byte(line), &res); err != nil {
		return nil, fmt.Errorf("bench: a generator said %.80q", line)
	}
	return &res, nil
}

func (r *genResult) verdict() error {
	switch {
	case r.Skip != "":
		return errSkipped{r.Skip}
	case r.Error != "":
		return errors.New(r.Error)
	}
	return nil
}

// kill ends the process, even if it has already ended.
func (g *generator) kill() {
	_ = g.in.Close()
	_ = g.cmd.Process.Kill()
	for range g.lines { // until read has ended, as required before Wait
	}
	_ = g.cmd.Wait()
}
