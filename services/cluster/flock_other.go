//go:build !unix

package cluster

import (
	"errors"
	"os"
)

func lockFile(*os.File) error {
	return errors.New("no file locks on this system: run a NATS server and give its URL")
}
