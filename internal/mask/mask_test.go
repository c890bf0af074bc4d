package mask

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// conns are forms of connection strings; no part of them that says hush or PW may be seen.
var conns = []struct{ in, want string }{
	{"postgres://app:hush@h:5432/x", "postgres://app:***@h:5432/x"},
	{"postgres://app:hush@h:notaport/x", "postgres://app:***@h:notaport/x"},
	{"postgresql://app:hu%73hhush@h/x?sslmode=require", "postgresql://app:***@h/x?sslmode=require"},
	{"postgres://app:hush/PW@h/x", "postgres://app:***@h/x"},
	{"postgres://app:hush@PW@h/x", "postgres://app:***@h/x"},
	{"postgres://app:hush?PW#hush@h", "postgres://app:***@h"},
	{"postgres://app:%zzhush@h/x", "postgres://app:***@h/x"},
	{"postgres://app@h/x", "postgres://app@h/x"},
	{"postgres://h/x?user=a&password=hush&sslmode=disable", "postgres://h/x?user=a&password=***&sslmode=disable"},
	{"postgres://h/x?p%61ssword=hush", "postgres://h/x?p%61ssword=***"},
	{"postgres://h/x?sslpassword=hush#PW", "postgres://h/x?sslpassword=***#PW"},
	{"host=h user=app password=hush dbname=x", "host=h user=app password=*** dbname=x"},
	{"host=h password='hush PW' dbname=x", "host=h password=*** dbname=x"},
	{"host=h password='hush \\' PW' dbname=x", "host=h password=*** dbname=x"},
	{"host=h password = hush", "host=h password = ***"},
	{"host=h password='hush PW", "host=h password=***"},
	{"host=h password=hush\\ PW", "host=h password=***"},
	{"host=h PASSWORD=hush&PW", "host=h PASSWORD=***"},
	{"nats://user:hush@h:4222", "nats://user:***@h:4222"},
	{"nats://hush@h:4222", "nats://***@h:4222"},
	{"nats://user:hush@h1,nats://user:PW@h2", "nats://user:***@h2"},
	{"tls://hush@h", "tls://***@h"},
	{"app:hush@h:4222", "app:***@h:4222"},
	{"hush@h:4222", "***@h:4222"},
	{"embedded", "embedded"},
	{"nats://h:4222", "nats://h:4222"},
	{"postgres://h1:1,h2:2/x", "postgres://h1:1,h2:2/x"},
	{"", ""},
}

// spaced are such strings with a space in the user's part. No library is given one, as Why finds
// it, so that no other text quotes it.
var spaced = []struct{ in, want string }{
	{"postgres://app:hush PW@h:5432/x", "postgres://***@h:5432/x"},
	{"postgres://app:hush\tPW@h/x?password=hush", "postgres://***@h/x?password=***"},
	{"postgres://app:hush PW@h:notaport/x", "postgres://***@h:notaport/x"},
	{"nats://hush PW@h:4222", "nats://***@h:4222"},
	{"--cluster=nats://a:hush PW@h:4222", "--cluster=nats://***@h:4222"},
}

func shows(s string) bool {
	s = strings.TrimSuffix(s, "#PW") // a fragment behind a parameter, no secret
	return strings.Contains(s, "hush") || strings.Contains(s, "PW")
}

func TestConnHidesSecretsInEveryForm(t *testing.T) {
	for _, c := range slices.Concat(conns, spaced) {
		got := Conn(c.in)
		if got != c.want || shows(got) {
			t.Errorf("%s: got %s, want %s", c.in, got, c.want)
		}
		if again := Conn(got); again != got {
			t.Errorf("%s: masked twice it is %s", got, again)
		}
		if why := Why(c.in); shows(why) {
			t.Errorf("%s: the reason shows the secret: %s", c.in, why)
		}
	}
	if got := Why("postgres://app:hush@h:notaport/x"); !strings.Contains(got, "notaport") {
		t.Errorf("got %q, want the port named", got)
	}
}

func TestTextsThatQuoteOneHideItToo(t *testing.T) {
	for _, c := range conns {
		if c.in == "hush@h:4222" { // no text can be told from that
			continue
		}
		for _, quoted := range []string{c.in, strconv.Quote(c.in), "`" + c.in + "`", "(" + c.in + ")", "err: " + c.in + ": no route"} {
			if got := Text("cannot parse " + quoted); shows(strings.NewReplacer("#PW", "").Replace(got)) {
				t.Errorf("%s: got %s", quoted, got)
			}
		}
	}
	for _, plain := range []string{"dial tcp 127.0.0.1:5432: connect: connection refused", "engine: listen tcp://[::1]:70: in use", "a: b@c"} {
		if got := Text(plain); got != plain {
			t.Errorf("got %s, want %s", got, plain)
		}
	}
}

func TestErrorKeepsWhatItWraps(t *testing.T) {
	err := Error(fmt.Errorf("connect postgres://a:hush@h: %w", io.EOF))
	if !errors.Is(err, io.EOF) || shows(err.Error()) {
		t.Errorf("got %v", err)
	}
	if Error(nil) != nil || Error(io.EOF) != io.EOF {
		t.Error("an error without secrets is changed")
	}
}

func FuzzConn(f *testing.F) {
	f.Add("pw/?#@ '\\&", uint8(0))
	f.Fuzz(func(t *testing.T, pw string, form uint8) {
		if strings.ContainsAny(pw, " \t\n\v\f\r\u0085\u00a0'\\&#") || strings.TrimSpace(pw) != pw {
			return // the secret ends there
		}
		if form%4 == 1 && strings.Contains(pw, ":") {
			return // then what is in front is a user
		}
		secret := "SECRET" + pw + "SECRET"
		s := fmt.Sprintf([]string{"postgres://u:%s@h/x", "nats://%s@h", "password=%s", "postgres://h/x?password=%s"}[form%4], secret)
		if got := Conn(s); strings.Contains(got, "SECRET") {
			t.Errorf("%q: got %q", s, got)
		}
	})
}

// A file whose name ends like a secret's is no setting: the word behind it is shown.
func TestTextsAboutFilesAreShown(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"open /etc/x/token: permission denied", "open /etc/x/token: permission denied"},
		{"open /etc/x/admin-token: no such file or directory", "open /etc/x/admin-token: no such file or directory"},
		{"open ./token: is a directory", "open ./token: is a directory"},
		{`open C:\x\db_password: in use`, `open C:\x\db_password: in use`},
		{`--admin-token-file "/etc/x/token": permission denied`, `--admin-token-file "/etc/x/token": permission denied`},
		{"open /etc/x/token: open /etc/x/secret: denied", "open /etc/x/token: open /etc/x/secret: denied"},

		{"open /etc/x/token: password=hush", "open /etc/x/token: password=***"},
		{"read /etc/x/conf: token: hush", "read /etc/x/conf: token: ***"},
		{"/etc/x/conf token: hush", "/etc/x/conf token: ***"},
		{"/etc/x/token=hush", "/etc/x/token=***"},
		{`{"token":"hush","password": "PW","pwd":1234}`, `{"token":***,"password": ***,"pwd":***`},
		{`{'token': 'hush'}`, `{'token': ***}`},
		{"token: hush", "token: ***"},
		{`"token": hush`, `"token": ***`},
		{"nats://h/x?a=b&token:hush", "nats://h/x?a=b&token:***"},
	} {
		if got := Text(c.in); got != c.want || shows(got) {
			t.Errorf("%s: got %s, want %s", c.in, got, c.want)
		}
	}
}
