package pgembed

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"sort"
	"strconv"
	"time"
)

// ErrNotInstalled: initdb and postgres were found neither in Config.BinDir, nor
// in /usr/lib/postgresql/*/bin, nor in PATH.
var ErrNotInstalled = errors.New("pgembed: no PostgreSQL binaries found")

// ErrInUse: another server uses Config.Dir; the error says which process it is.
var ErrInUse = errors.New("another PostgreSQL server uses this data directory")

// Config configures a server. The zero value is a throwaway server without durability in a
// temporary directory.
type Config struct {
	// BinDir holds postgres and initdb. Empty: the newest of
	// /usr/lib/postgresql/*/bin, then PATH.
	BinDir string
	// Dir is the data directory; it is created and initialized if it is empty, and kept by Stop.
	// Empty: a temporary directory, removed by Stop.
	Dir string
	// Durable keeps fsync on. It is always on when Dir is set and NoSync is not.
	Durable bool
	// NoSync turns fsync off for a server with a Dir of its own.
	NoSync bool
	// TCP also listens on a free port of 127.0.0.1, with a password: see Server.URL.
	TCP bool
	// User is the account the server runs as when this process is root.
	// Empty: postgres, else nobody. Ignored when not root.
	User string
	// Settings are further server settings (name to value).
	Settings map[string]string
	// StartTimeout bounds initdb and the wait for the server. 0: 60 s.
	StartTimeout time.Duration
}

func (c Config) withDefaults() Config {
	if c.StartTimeout == 0 {
		c.StartTimeout = 60 * time.Second
	}
	return c
}

func (c Config) sync() bool { return c.Durable || (c.Dir != "" && !c.NoSync) }

// Find returns the directory of the newest installed PostgreSQL's binaries, or
// ErrNotInstalled.
func Find() (string, error) {
	dirs, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	sort.Slice(dirs, func(i, j int) bool { return version(dirs[i]) > version(dirs[j]) })
	for _, d := range dirs {
		if hasBinaries(d) {
			return d, nil
		}
	}
	if p, err := exec.LookPath("postgres"); err == nil {
		if d := filepath.Dir(p); hasBinaries(d) {
			return d, nil
		}
	}
	return "", ErrNotInstalled
}

func version(bin string) float64 {
	v, _ := strconv.ParseFloat(filepath.Base(filepath.Dir(bin)), 64)
	return v
}

func hasBinaries(dir string) bool {
	for _, name := range []string{"postgres", "initdb"} {
		fi, err := os.Stat(filepath.Join(dir, name))
		if err != nil || fi.Mode()&0o111 == 0 {
			return false
		}
	}
	return true
}

// account is the account the server runs as.
type account struct {
	uid, gid int
	other    bool // not that of this process
	name     string
}

// serverAccount chooses an unprivileged account if this process is root.
func serverAccount(name string) (account, error) {
	if os.Geteuid() != 0 {
		u, err := user.Current()
		if err != nil {
			return account{uid: os.Geteuid(), gid: os.Getegid(), name: "postgres"}, nil
		}
		return account{uid: os.Geteuid(), gid: os.Getegid(), name: u.Username}, nil
	}
	names := []string{name}
	if name == "" {
		names = []string{"postgres", "nobody"}
	}
	for _, n := range names {
		u, err := user.Lookup(n)
		if err != nil {
			continue
		}
		uid, err1 := strconv.Atoi(u.Uid)
		gid, err2 := strconv.Atoi(u.Gid)
		if err := errors.Join(err1, err2); err != nil {
			return account{}, fmt.Errorf("pgembed: account %s: %w", n, err)
		}
		return account{uid: uid, gid: gid, name: n, other: true}, nil
	}
	return account{}, fmt.Errorf("pgembed: this process is root and no account of %q exists to run PostgreSQL", names)
}
