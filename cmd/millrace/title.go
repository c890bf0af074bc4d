package main

import (
	"os"
	"strings"

	"millrace/internal/mask"
)

// hideArguments overwrites parts of the process's command line that look like secrets, as all users
// of the machine can read it; os.Args is not changed. Secrets should still be passed by a variable
// or a file: until this call they can be seen.
func hideArguments() {
	for i, shown := range os.Args {
		os.Args[i] = strings.Clone(shown)
		masked := mask.Text(shown)
		if strings.HasPrefix(shown, "--db=") || strings.HasPrefix(shown, "--cluster=") || i > 0 && (os.Args[i-1] == "--db" || os.Args[i-1] == "--cluster") {
			masked = mask.Conn(shown)
		}
		if masked != shown {
			from, to := secretPart(shown, masked)
			overwrite(shown[from:to])
		}
	}
}

// secretPart returns the range of shown that differs from masked; all of shown if that can't be
// determined.
func secretPart(shown, masked string) (from, to int) {
	from = strings.Index(masked, mask.Hidden)
	if from < 0 || from > len(shown) {
		return 0, len(shown)
	}
	tail := masked[strings.LastIndex(masked, mask.Hidden)+len(mask.Hidden):]
	if !strings.HasPrefix(shown, masked[:from]) || !strings.HasSuffix(shown, tail) || from > len(shown)-len(tail) {
		return 0, len(shown)
	}
	return from, len(shown) - len(tail)
}
