package pgembed

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// endTime is how long initdb may take to undo what it has done.
const endTime = 10 * time.Second

// prepare finds the binaries and creates the directories.
func prepare(cfg Config) (*Server, error) {
	s := &Server{cfg: cfg.withDefaults(), bin: cfg.BinDir}
	var err error
	if s.bin == "" {
		if s.bin, err = Find(); err != nil {
			return nil, err
		}
	} else if !hasBinaries(s.bin) {
		return nil, fmt.Errorf("%w in %s", ErrNotInstalled, s.bin)
	}
	if s.acct, err = serverAccount(cfg.User); err != nil {
		return nil, err
	}
	// A unix socket's path must fit 107 bytes: not t.TempDir.
	if s.base, err = os.MkdirTemp("", "mpg"); err != nil {
		return nil, fmt.Errorf("pgembed: %w", err)
	}
	s.data = cfg.Dir
	if s.data == "" {
		s.data = filepath.Join(s.base, "data")
	}
	if s.data, err = filepath.Abs(s.data); err == nil {
		err = s.makeDirs()
	}
	if err == nil {
		s.port, err = freePort(cfg.TCP)
	}
	if err != nil {
		s.cleanup()
		return nil, fmt.Errorf("pgembed: %w", err)
	}
	return s, nil
}

// ours refuses a directory that contains something other than a cluster, because its owner would be
// changed.
func ours(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) == 0 {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, "PG_VERSION")); err != nil {
		return fmt.Errorf("pgembed: %s is neither empty nor a PostgreSQL data directory: name another", dir)
	}
	return nil
}

// free refuses a directory in which a server runs, before anything there is changed.
func free(dir string) error {
	if pid := runsIn(dir); pid > 0 {
		return fmt.Errorf("%s: %w, as process %d", dir, ErrInUse, pid)
	}
	return nil
}

func (s *Server) makeDirs() error {
	// The server's account must be able to enter the parent directories of its data.
	if err := os.MkdirAll(filepath.Dir(s.data), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(s.data, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := errors.Join(ours(s.data), free(s.data)); err != nil {
		return err
	}
	if err := s.writeAccess(); err != nil {
		return err
	}
	for _, d := range []string{s.base, s.data} {
		if err := os.Chmod(d, 0o700); err != nil {
			return err
		}
		if s.acct.other {
			if err := chownTree(d, s.acct.uid, s.acct.gid); err != nil {
				return err
			}
		}
	}
	return nil
}

// chownTree gives dir and everything below it to the server's account, so that a directory created
// by an earlier run under another account can be opened.
func chownTree(dir string, uid, gid int) error {
	return filepath.WalkDir(dir, func(p string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(p, uid, gid)
	})
}

// freePort returns a free TCP port. A server without TCP needs a number too: it is part of the
// socket's name.
func freePort(tcp bool) (int, error) {
	if !tcp {
		return 5432, nil
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port, nil
}

func (s *Server) initdb(ctx context.Context) error {
	if _, err := os.Stat(filepath.Join(s.data, "PG_VERSION")); err == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.StartTimeout)
	defer cancel()
	// hba.conf of ours replaces the file that this creates, which remains for starting postgres by
	// hand.
	args := []string{"-D", s.data, "-U", superuser, "--auth-local=peer", "--auth-host=scram-sha-256", "--pwfile", s.passwordPath(), "-E", "UTF8", "--no-locale"}
	if !s.cfg.sync() {
		args = append(args, "--no-sync")
	}
	runtime.LockOSThread() // as for wait
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, "initdb"), args...)
	cmd.SysProcAttr = serverAttr(s.acct)
	cmd.Cancel = func() error { return endGroup(cmd.Process.Pid) } // it empties the directory, in which PG_VERSION is by now
	cmd.WaitDelay = endTime
	cmd.Dir = s.base
	cmd.Env = environ()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("pgembed: initdb: %w: %s", err, oneLine(out))
	}
	s.fresh = true
	return nil
}

// environ omits the caller's PG* variables, which would affect the server.
func environ() []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "PG") && !strings.HasPrefix(kv, "LC_") && !strings.HasPrefix(kv, "LANG") {
			env = append(env, kv)
		}
	}
	return append(env, "LC_ALL=C", "TZ=UTC")
}
