package benchcmd

import (
	"errors"
	"os"

	"millrace/bench"
)

// journal is the file of --json while the suite writes to it. It takes the place of an older FILE with the first
// run that has ended: a command that fails at once costs no results.
type journal struct {
	f   *replacement
	err error // why it could not take its place
}

// journal opens --json for cfg, with what --resume finds in it; nil without --json.
func (c *Run) journal(cfg *bench.Config) (*journal, error) {
	if c.JSON == "" {
		return nil, nil
	}
	if c.Resume {
		old, err := bench.Load(c.JSON)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, wrongUsage("%v", err)
		}
		cfg.Resume = old
	}
	f, err := newFile(c.JSON)
	if err != nil {
		return nil, err
	}
	j := &journal{f: f}
	cfg.Journal = f
	report := cfg.OnRun
	cfg.OnRun = func(p bench.Progress, r bench.Run) {
		j.err = errors.Join(j.err, f.settle())
		report(p, r)
	}
	return j, nil
}

// close ends the file; one without a new run goes.
func (j *journal) close() error {
	if j == nil {
		return nil
	}
	return errors.Join(j.err, j.f.drop())
}
