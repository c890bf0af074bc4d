// Package modpath checks the paths of Go modules that users give.
package modpath

import (
	"errors"
	"regexp"
	"strings"
)

var element = regexp.MustCompile(`^[A-Za-z0-9_~-][A-Za-z0-9._~-]*$`)

// Check reports a path that is not valid for a module.
func Check(path string) error {
	for e := range strings.SplitSeq(path, "/") {
		if !element.MatchString(e) || strings.HasSuffix(e, ".") {
			return errors.New("must be a module's path, such as example.com/game")
		}
	}
	if strings.HasPrefix(path, "-") {
		return errors.New("must not begin with a dash")
	}
	return nil
}
