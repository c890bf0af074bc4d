package cluster

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// EmbeddedConfig sets a server inside this process.
type EmbeddedConfig struct {
	// Dir holds its data, the address it listens on, and the lock of the
	// process that runs it. It must exist or be creatable.
	Dir string
	// Host is a loopback address; default 127.0.0.1.
	Host string
	// Port; default: the one of its last run in Dir, else a free one.
	Port int
	// MaxStore and MaxMemory bound what it keeps, in bytes; default 1 GiB and 64 MiB.
	MaxStore, MaxMemory int64
	// SyncAlways has every write on the disk before it is acknowledged, which
	// costs one fsync each. Without it a second's writes at most are lost when
	// the machine, not the process, ends.
	SyncAlways bool
	// ReadyTimeout bounds its start; default 10 s.
	ReadyTimeout time.Duration
}

// Embedded is a NATS server with JetStream, in this process or, when another
// process already runs one on the same directory, in that.
type Embedded struct {
	url  string         // with the token
	srv  *server.Server // nil: another process's
	lock *os.File
}

// StartEmbedded starts a server on cfg.Dir, or joins the one that another
// process runs there. It writes address (host:port, the same after a restart)
// and token (mode 0600) into the directory; a client must bring the token, as
// URL does: nats://TOKEN@HOST:PORT.
//
// What was acknowledged survives the end of the process. A power cut costs the
// values of the last second, unless SyncAlways, and the locks: no process that
// held one has outlived it. Their tokens go on growing.
func StartEmbedded(cfg EmbeddedConfig) (*Embedded, error) {
	if cfg.Dir == "" {
		return nil, errors.New("cluster: embedded server without a directory")
	}
	if cfg.Host == "" {
		cfg.Host = "127.0.0.1"
	}
	if ip := net.ParseIP(cfg.Host); ip == nil || !ip.IsLoopback() {
		return nil, fmt.Errorf("cluster: embedded server: %q is not a loopback address", cfg.Host)
	}
	if cfg.MaxStore == 0 {
		cfg.MaxStore = 1 << 30
	}
	if cfg.MaxMemory == 0 {
		cfg.MaxMemory = 64 << 20
	}
	if cfg.ReadyTimeout == 0 {
		cfg.ReadyTimeout = 10 * time.Second
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("cluster: embedded server: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(cfg.Dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cluster: embedded server: %w", err)
	}
	e := &Embedded{lock: lock}
	if err := e.run(cfg); err != nil {
		_ = lock.Close()
		return nil, err
	}
	return e, nil
}

// run starts the server under the directory's lock, or joins who has the lock.
func (e *Embedded) run(cfg EmbeddedConfig) error {
	address := filepath.Join(cfg.Dir, "address")
	end := time.Now().Add(cfg.ReadyTimeout)
	for {
		err := lockFile(e.lock)
		if err == nil {
			return e.serve(cfg, address)
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return fmt.Errorf("cluster: embedded server: lock: %w", err)
		}
		if hostPort, ok := answers(address); ok {
			token, err := readToken(cfg.Dir)
			e.url = serverURL(hostPort, token)
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("cluster: embedded server: another process has %s and does not answer", cfg.Dir)
		}
		time.Sleep(20 * time.Millisecond) // its server is starting
	}
}

func answers(file string) (string, bool) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", false
	}
	hostPort := strings.TrimSpace(string(b))
	c, err := net.DialTimeout("tcp", hostPort, time.Second)
	if err != nil {
		return "", false
	}
	return hostPort, c.Close() == nil
}

func (e *Embedded) serve(cfg EmbeddedConfig, address string) error {
	port := cfg.Port
	if port == 0 {
		port = lastPort(address, cfg.Host)
	}
	token, err := ownToken(cfg.Dir)
	if err != nil {
		return fmt.Errorf("cluster: embedded server: token: %w", err)
	}
	if err := afterReboot(cfg.Dir, bootID); err != nil {
		return fmt.Errorf("cluster: embedded server: %w", err)
	}
	srv, err := server.NewServer(&server.Options{
		ServerName: "millrace", Host: cfg.Host, Port: port, NoSigs: true, NoLog: true, Authorization: token,
		JetStream: true, StoreDir: filepath.Join(cfg.Dir, "data"), SyncInterval: time.Second, SyncAlways: cfg.SyncAlways,
		JetStreamMaxStore: cfg.MaxStore, JetStreamMaxMemory: cfg.MaxMemory,
	})
	if err != nil {
		return fmt.Errorf("cluster: embedded server: %w", err)
	}
	srv.Start()
	if !srv.ReadyForConnections(cfg.ReadyTimeout) {
		srv.Shutdown()
		return fmt.Errorf("cluster: embedded server not ready within %v", cfg.ReadyTimeout)
	}
	hostPort := srv.Addr().String()
	if err := writeFile(address, hostPort+"\n"); err != nil {
		srv.Shutdown()
		return fmt.Errorf("cluster: embedded server: %w", err)
	}
	e.srv, e.url = srv, serverURL(hostPort, token)
	return nil
}

func serverURL(hostPort, token string) string { return "nats://" + token + "@" + hostPort }

// lastPort is the port of the last run, so that processes which joined find it
// again, or server.RANDOM_PORT when that is not free.
func lastPort(address, host string) int {
	b, err := os.ReadFile(address)
	if err != nil {
		return server.RANDOM_PORT
	}
	_, text, _ := net.SplitHostPort(strings.TrimSpace(string(b)))
	port, err := strconv.Atoi(text)
	if err != nil || port <= 0 {
		return server.RANDOM_PORT
	}
	ln, err := net.Listen("tcp", net.JoinHostPort(host, text))
	if err != nil {
		return server.RANDOM_PORT
	}
	_ = ln.Close()
	return port
}

// writeFile replaces the file in one step.
func writeFile(name, text string) error {
	if err := os.WriteFile(name+".new", []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

// URL is what Config.URL takes. It has the token in it: don't print it.
func (e *Embedded) URL() string { return e.url }

// Own says whether the server runs in this process.
func (e *Embedded) Own() bool { return e.srv != nil }

// Stop ends the server, if it is this process's. It may be called twice.
func (e *Embedded) Stop() {
	if e.srv != nil {
		e.srv.Shutdown()
		e.srv.WaitForShutdown()
		e.srv = nil
	}
	_ = e.lock.Close()
}
