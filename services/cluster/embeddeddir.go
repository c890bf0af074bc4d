package cluster

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// ownToken returns the token in the directory, which is made at the first start.
func ownToken(dir string) (string, error) {
	token, err := readToken(dir)
	if !errors.Is(err, fs.ErrNotExist) {
		return token, err
	}
	token = rand.Text()
	return token, writeFile(filepath.Join(dir, "token"), token+"\n")
}

func readToken(dir string) (string, error) {
	name := filepath.Join(dir, "token")
	b, err := os.ReadFile(name)
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(b))
	if token == "" || strings.ContainsAny(token, "@:/?# \t\r\n") {
		return "", fmt.Errorf("%s holds no token; remove it to have one made", name)
	}
	return token, os.Chmod(name, 0o600)
}

// afterReboot drops the lock buckets when the machine has been started anew since
// the server last ran: nobody who held a lock through a loopback address lives,
// and the last sequences may not have reached the disk. The next start of a
// Cache makes the buckets again, with tokens from the clock on.
func afterReboot(dir string) error {
	now, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil // no such thing on this system
	}
	name := filepath.Join(dir, "boot")
	before, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err == nil && string(before) == string(now) {
		return nil
	}
	buckets, err := filepath.Glob(filepath.Join(dir, "data", "jetstream", "$G", "streams", "KV_*_locks"))
	if err != nil {
		return err
	}
	for _, b := range buckets {
		if err := os.RemoveAll(b); err != nil {
			return err
		}
	}
	return writeFile(name, string(now))
}
