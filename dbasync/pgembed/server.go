package pgembed

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Mode is how a server is stopped.
type Mode syscall.Signal

// PostgreSQL's three shutdown modes.
const (
	Smart     = Mode(syscall.SIGTERM) // waits for clients to leave
	Fast      = Mode(syscall.SIGINT)  // ends sessions, rolls back, checkpoints
	Immediate = Mode(syscall.SIGQUIT) // as a crash: recovers at the next start
)

const (
	superuser = "postgres"
	database  = "postgres"
	maxLog    = 64 << 20 // the server's log is truncated to nothing above this size, bytes
)

// Server is a running or stopped PostgreSQL server. Its methods may be called
// from any goroutine.
type Server struct {
	cfg  Config
	bin  string
	acct account
	base string // temporary directory of this Server: socket, log, password, maybe data
	word string // the superuser's password, for TCP
	data string
	port int
	// fresh: the cluster has this Server's password.
	fresh bool

	mu   sync.Mutex // serializes Start, Stop, Restart
	cmd  *exec.Cmd
	done chan struct{} // closed when cmd has ended

	logFrom int64 // bytes of the log that were there when cmd was started
}

// Start initializes the data directory if it is empty, starts the server and returns when it
// accepts connections. Errors: ErrNotInstalled, ErrInUse, or one line of the output of initdb or
// the server.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	s, err := prepare(cfg)
	if err != nil {
		return nil, err
	}
	if err := s.initdb(ctx); err != nil {
		s.cleanup()
		return nil, err
	}
	if err := s.Start(ctx); err != nil {
		s.cleanup()
		return nil, err
	}
	return s, nil
}

// Start starts the server again after Stop of a Server with a Dir, or after it ended by itself, and
// returns when it accepts connections. It does nothing if the server runs.
func (s *Server) Start(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running() {
		return nil
	}
	if err := free(s.data); err != nil {
		return err
	}
	if err := s.setPassword(ctx); err != nil {
		return err
	}
	log, err := s.openLog()
	if err != nil {
		return fmt.Errorf("pgembed: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(s.bin, "postgres"), s.args()...)
	cmd.SysProcAttr = serverAttr(s.acct)
	cmd.Dir, cmd.Env = s.base, environ()
	cmd.Stdout, cmd.Stderr = log, log
	started, done := make(chan error), make(chan struct{})
	go wait(cmd, started, done)
	if err := <-started; err != nil {
		return fmt.Errorf("pgembed: start: %w", err)
	}
	s.cmd, s.done = cmd, done
	if err := s.ready(ctx); err != nil {
		_ = cmd.Process.Signal(syscall.SIGQUIT)
		<-done
		return err
	}
	return nil
}

// wait starts cmd and waits for it on one thread: the child's death signal is tied to that thread,
// not the process.
func wait(cmd *exec.Cmd, started chan<- error, done chan<- struct{}) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := cmd.Start()
	started <- err
	if err == nil {
		_ = cmd.Wait()
	}
	close(done)
}

func (s *Server) openLog() (*os.File, error) {
	flags := os.O_CREATE | os.O_WRONLY | os.O_APPEND
	s.logFrom = 0
	if fi, err := os.Stat(s.LogPath()); err == nil && fi.Size() > maxLog {
		flags |= os.O_TRUNC
	} else if err == nil {
		s.logFrom = fi.Size()
	}
	return os.OpenFile(s.LogPath(), flags, 0o600)
}

func (s *Server) args() []string {
	set := map[string]string{
		"listen_addresses":        "",
		"unix_socket_directories": s.base,
		"unix_socket_permissions": "0700",
		"hba_file":                filepath.Join(s.base, "hba.conf"),
		"password_encryption":     "scram-sha-256",
		"port":                    strconv.Itoa(s.port),
		"max_connections":         "64",
		"logging_collector":       "off",
		"log_min_messages":        "warning",
	}
	if s.cfg.TCP {
		set["listen_addresses"] = "127.0.0.1"
	}
	if !s.cfg.sync() {
		set["fsync"], set["full_page_writes"] = "off", "off"
	}
	for k, v := range s.cfg.Settings {
		set[k] = v
	}
	names := make([]string, 0, len(set))
	for k := range set {
		names = append(names, k)
	}
	sort.Strings(names)
	args := []string{"-D", s.data}
	for _, k := range names {
		args = append(args, "-c", k+"="+set[k])
	}
	return args
}

// ready waits until postmaster.pid reports that the server accepts connections.
func (s *Server) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.StartTimeout)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if s.statusReady() {
			return nil
		}
		select {
		case <-tick.C:
		case <-s.done:
			tail := s.logTail()
			if strings.Contains(tail, `"postmaster.pid" already exists`) {
				return fmt.Errorf("pgembed: another server runs in %s: use its URL, or end it", s.data)
			}
			return fmt.Errorf("pgembed: the server ended while starting: %s", tail)
		case <-ctx.Done():
			return fmt.Errorf("pgembed: the server is not ready: %w: %s", ctx.Err(), s.logTail())
		}
	}
}

// statusReady reads the eighth line of postmaster.pid, as pg_ctl does.
func (s *Server) statusReady() bool {
	b, err := os.ReadFile(filepath.Join(s.data, "postmaster.pid"))
	if err != nil {
		return false
	}
	lines := strings.Split(string(b), "\n")
	return len(lines) >= 8 && strings.TrimSpace(lines[0]) == strconv.Itoa(s.cmd.Process.Pid) &&
		strings.TrimSpace(lines[7]) == "ready"
}

// logTail returns the end of what the server has logged since it was started last.
func (s *Server) logTail() string {
	b, _ := os.ReadFile(s.LogPath())
	b = b[min(int(s.logFrom), len(b)):]
	if len(b) > 2048 {
		b = b[len(b)-2048:]
	}
	return oneLine(b)
}

func (s *Server) running() bool {
	if s.cmd == nil {
		return false
	}
	select {
	case <-s.done:
		return false
	default:
		return true
	}
}

// Stop stops the server and returns when it has ended. If ctx ends first, the server is killed. A
// throwaway server's directory is removed. A second call does nothing.
func (s *Server) Stop(ctx context.Context, how Mode) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.halt(ctx, how)
	s.cleanup()
	return err
}

// Restart stops and starts the server; its address and data stay.
func (s *Server) Restart(ctx context.Context, how Mode) error {
	if err := s.Halt(ctx, how); err != nil {
		return err
	}
	return s.Start(ctx)
}

// Halt stops the server but keeps its directories, so that Start finds the same
// data at the same address.
func (s *Server) Halt(ctx context.Context, how Mode) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.halt(ctx, how)
}

func (s *Server) halt(ctx context.Context, how Mode) error {
	if !s.running() {
		return nil
	}
	if err := s.cmd.Process.Signal(syscall.Signal(how)); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("pgembed: stop: %w", err)
	}
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		// Its process group contains its children too.
		killGroup(s.cmd.Process.Pid)
		<-s.done
		return fmt.Errorf("pgembed: stop: %w", ctx.Err())
	}
}

// cleanup removes the temporary directory; a data directory of the caller is not in it.
func (s *Server) cleanup() { _ = os.RemoveAll(s.base) }

// URL returns a connection string through the unix socket, or through TCP if Config.TCP is set; the
// latter contains the password.
func (s *Server) URL() string {
	if s.cfg.TCP {
		return fmt.Sprintf("postgres://%s:%s@127.0.0.1:%d/%s?sslmode=disable", superuser, s.word, s.port, database)
	}
	return s.SocketURL()
}

// SocketURL returns a connection string through the unix socket.
func (s *Server) SocketURL() string {
	q := url.Values{"host": {s.base}, "port": {strconv.Itoa(s.port)}, "user": {superuser}, "sslmode": {"disable"}}
	return "postgres:///" + database + "?" + q.Encode()
}

// Done returns a channel that is closed when the current server process has ended, by Stop or by
// itself; a later Start creates another one.
func (s *Server) Done() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.done
}

// PID returns the postmaster's process ID, 0 if the server is not running.
func (s *Server) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.running() {
		return 0
	}
	return s.cmd.Process.Pid
}

// LogPath returns the path of the server's log; a throwaway server's log is removed by Stop.
func (s *Server) LogPath() string { return filepath.Join(s.base, "log") }

// BinDir returns the directory of the server's binaries; pgbench and psql may be there too.
func (s *Server) BinDir() string { return s.bin }

// SocketDir returns the directory of the unix socket, for tools with a -h option.
func (s *Server) SocketDir() string { return s.base }
