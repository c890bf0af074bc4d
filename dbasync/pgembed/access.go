package pgembed

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// hba allows every connection through the socket, whose directory only the server's account (and
// root) may enter, and over TCP connections with the password.
const hba = `local all,replication all trust
host all,replication all 127.0.0.1/32 scram-sha-256
`

func (s *Server) passwordPath() string { return filepath.Join(s.base, "password") }

// writeAccess creates a password and the files that control access. They are in s.base, so that
// those in the data directory stay as they are. The caller changes their owner to the server's
// account.
func (s *Server) writeAccess() error {
	s.word = rand.Text()
	if err := os.WriteFile(s.passwordPath(), []byte(s.word+"\n"), 0o600); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.base, "hba.conf"), []byte(hba), 0o600)
}

// setPassword gives the superuser of an existing cluster this Server's password, before anyone can
// connect. The statement is sent through a pipe, because all users can read a process's arguments.
// A standby has its primary's password.
func (s *Server) setPassword(ctx context.Context) error {
	if !s.cfg.TCP || s.fresh {
		return nil
	}
	if _, err := os.Lstat(filepath.Join(s.data, "standby.signal")); err == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.StartTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, "postgres"), "--single", "-D", s.data,
		"-c", "password_encryption=scram-sha-256", "-c", "log_min_messages=error", database)
	cmd.SysProcAttr = asAccount(s.acct)
	cmd.Dir, cmd.Env = s.base, environ()
	cmd.Stdin = strings.NewReader("alter role " + superuser + " password '" + s.word + "'\n")
	out, err := cmd.CombinedOutput()
	if err == nil && bytes.Contains(out, []byte("ERROR:")) {
		err = fmt.Errorf("the statement failed")
	}
	if err != nil {
		return fmt.Errorf("pgembed: the password can't be set: %w: %s", err, strings.ReplaceAll(oneLine(out), s.word, "***"))
	}
	s.fresh = true
	return nil
}
