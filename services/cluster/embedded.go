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

// EmbeddedConfig configures a server inside this process.
type EmbeddedConfig struct {
	// Dir holds its data, its address, and the lock file of the process that runs it. It is created
	// if it doesn't exist.
	Dir string
	// Host is a loopback address; default 127.0.0.1.
	Host string
	// Port; default: the port of its last run in Dir, else a free one.
	Port int
	// MaxStore and MaxMemory limit its storage, in bytes; default 1 GiB and 64 MiB.
	MaxStore, MaxMemory int64
	// SyncAlways syncs every write to the disk before it is acknowledged, at the cost of one fsync
	// each. Without it up to a second of writes is lost when the machine (not just the process)
	// fails.
	SyncAlways bool
	// ReadyTimeout limits its start; default 10 s.
	ReadyTimeout time.Duration
}

// Embedded is a NATS server with JetStream, in this process or, if another process already runs one
// on the same directory, in that one.
type Embedded struct {
	url  string         // with the token
	srv  *server.Server // nil if another process runs it
	lock *os.File
}

// StartEmbedded starts a server on cfg.Dir, or joins the one that another process runs there. It
// writes address (host:port, the same after a restart) and token (mode 0600) into the directory;
// clients must present the token, as URL does: nats://TOKEN@HOST:PORT.
//
// Acknowledged writes survive the end of the process. A power failure loses the values of the last
// second, unless SyncAlways, and the locks, as no process that held one has survived. Their tokens
// keep increasing.
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

// run starts the server under the directory's lock, or joins the process that holds the lock.
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
		return fmt.Errorf("cluster: embedded server: its token can't be stored: %w", err)
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

// lastPort returns the port of the last run, so that joined processes find the server again, or
// server.RANDOM_PORT if it is not free.
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

// writeFile replaces the file atomically.
func writeFile(name, text string) error {
	if err := os.WriteFile(name+".new", []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

// URL returns the value for Config.URL. It contains the token: don't print it.
func (e *Embedded) URL() string { return e.url }

// Own reports whether the server runs in this process.
func (e *Embedded) Own() bool { return e.srv != nil }

// Stop ends the server, if it runs in this process. It may be called twice.
func (e *Embedded) Stop() {
	if e.srv != nil {
		e.srv.Shutdown()
		e.srv.WaitForShutdown()
		e.srv = nil
	}
	_ = e.lock.Close()
}
