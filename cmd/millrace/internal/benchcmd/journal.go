package benchcmd

import (
	"errors"
	"os"

	"millrace/bench"
)

// journal is the file of --json while the suite writes to it. It replaces an existing FILE only
// when the first run has ended, so a command that fails at once destroys no results.
type journal struct {
	f   *replacement
	err error // why it could not replace FILE
}

// journal opens --json for cfg, and reads it for --resume; it returns nil without --json.
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
		return nil, badFile("json", c.JSON, err)
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

// close ends the file and removes it if it has no new run.
func (j *journal) close() error {
	if j == nil {
		return nil
	}
	return errors.Join(j.err, j.f.drop())
}
