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

// ownToken returns the token in the directory; the first start creates it.
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
		return "", fmt.Errorf("%s contains no token; remove it to have one created", name)
	}
	return token, os.Chmod(name, 0o600)
}

// bootID names a file whose content changes with each boot of the machine.
const bootID = "/proc/sys/kernel/random/boot_id"

// afterReboot deletes the lock buckets if the machine was rebooted since the server last ran: no
// process that held a lock through a loopback address is alive, and the last sequences may not have
// reached the disk. The next start of a Cache creates the buckets again, with tokens from the clock
// on.
//
// It deletes through an os.Root: a symbolic link in the directory can't make it delete anything
// outside.
func afterReboot(dir, bootID string) error {
	now, err := os.ReadFile(bootID)
	if err != nil {
		return nil // not available on this system
	}
	name := filepath.Join(dir, "boot")
	before, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err == nil && string(before) == string(now) {
		return nil
	}
	if err := dropLocks(dir); err != nil {
		return fmt.Errorf("drop the locks of before the reboot: %w (%s may be a link, nothing below it)", err, dir)
	}
	return writeFile(name, string(now))
}

func dropLocks(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	streams := filepath.Join("data", "jetstream", "$G", "streams")
	list, err := fs.ReadDir(root.FS(), filepath.ToSlash(streams))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it has never run
	}
	if err != nil {
		return err
	}
	for _, e := range list {
		if !strings.HasPrefix(e.Name(), "KV_") || !strings.HasSuffix(e.Name(), "_locks") {
			continue
		}
		if err := root.RemoveAll(filepath.Join(streams, e.Name())); err != nil {
			return err
		}
	}
	return nil
}
