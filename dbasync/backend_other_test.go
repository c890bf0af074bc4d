//go:build !unix

package dbasync

import (
	"errors"
	"os"
)

func stop(int) error { return errors.ErrUnsupported }
func goOn(int) error { return errors.ErrUnsupported }
func kill(int) error { return errors.ErrUnsupported }

func giveTo(string, os.FileInfo) error { return nil }
