package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"millrace/internal/mask"
)

// Whatever is wrong with a connection string, nothing that the command says shows its password.
func TestSecretsAreNotPrinted(t *testing.T) {
	urls := []string{
		"postgres://app:hush@h:notaport/x", "postgres://app:hush/PW@h/x", "postgres://app:%zzhush@h/x", "postgres://app:hu#hush@h",
		"host=h port=notaport password=hush", "host=h password='hush", "postgres://h:notaport/x?password=hush", "postgres://h/x?sslmode=no&password=hush",
		"nats://user:hush@h:notaport", "nats://hush@", "hush@h", "tls://hush/PW@h", "http://a:hush@h",
	}
	for _, flag := range []string{"db", "cluster"} {
		for _, url := range urls {
			for _, how := range [][]string{{}, {"--print-config"}, {"more"}, {"--no-such-flag=" + url}} {
				args := append([]string{"serve", "--addr=tcp://127.0.0.1:0", "--" + flag + "=" + url, "--db-lanes=0"}, how...)
				if len(how) == 0 || how[0] == "--print-config" {
					args = append(args[:3], how...)
				}
				if len(how) == 0 && flag == "cluster" && !strings.Contains(url, "PW") && url != "hush@h" && !strings.HasPrefix(url, "http") {
					continue // it may be one that is only not there yet
				}
				if len(how) == 0 && flag == "db" && (strings.HasPrefix(url, "nats") || strings.HasPrefix(url, "tls") || strings.HasPrefix(url, "http")) {
					args = append(args, "--print-config")
				}
				if len(how) == 0 {
					args = append(args, "--max-frame=1") // if all else is right, it ends here
				}
				var out, errOut bytes.Buffer
				err := run(args, nil, &out, &errOut)
				text := out.String() + errOut.String()
				if err != nil {
					text += mask.Text(oneLine(err)) // as main prints it
				}
				if strings.Contains(text, "hush") || strings.Contains(text, "PW") {
					t.Errorf("%q: %s", args, text)
				}
			}
		}
	}
}

func TestBadBackendNamesTheFaultAndNoSecret(t *testing.T) {
	for _, url := range []string{"postgres://app:hush@h:notaport/x", "postgres://app:hush/PW@h/x", "host=h password=hush port=x"} {
		err := badBackend("db", url, errors.New("cannot parse `"+url+"`"))
		if text := err.Error(); strings.Contains(text, "hush") || strings.Contains(text, "PW") || !strings.HasPrefix(text, "--db ") {
			t.Errorf("%s: got %s", url, text)
		}
	}
}

func TestTheLogMasksSecrets(t *testing.T) {
	for _, format := range []string{"text", "json"} {
		var out bytes.Buffer
		log, _ := newLogger(&out, format, "info")
		log.Warn("down", "err", errors.New("dial nats://u:hush@h: refused"), "url", "postgres://a:hush@h/x?password=hush")
		if s := out.String(); strings.Contains(s, "hush") || !strings.Contains(s, mask.Hidden) {
			t.Errorf("%s: %s", format, s)
		}
	}
}
