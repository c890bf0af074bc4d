// Package mask removes passwords and tokens from text that is shown: connection strings of
// PostgreSQL and NATS in every form, valid or not, and texts that may quote one.
//
//	fmt.Errorf("--db %q: %s", mask.Conn(url), mask.Why(url))
//
// When in doubt it hides too much rather than too little.
package mask

import (
	"net/url"
	"regexp"
	"strings"
)

// Hidden replaces what is not shown.
const Hidden = "***"

var (
	// userinfo extends to the last @ of a word: a password may contain any character that should
	// have been escaped, even / ? # @.
	userinfo = regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*)://(\S*)@(\S*)`)
	// query is one parameter of a URL; its name may be escaped.
	query = regexp.MustCompile(`([?&])([^=&#\s?]+)=([^&#\s]*)`)
	// keyword is one setting of a key=value string, quoted or not. A quote without an end
	// reaches to the end of the text.
	keyword    = regexp.MustCompile(`(?i)([a-z_]*(?:password|passwd|passphrase|secret|token|pwd)[a-z_]*["']?\s*[=:]\s*)('(?:[^'\\]|\\+.)*(?:'|$)|"(?:[^"\\]|\\+.)*(?:"|$)|(?:[^\s\\]|\\+.)+)`)
	secretName = regexp.MustCompile(`(?i)password|passwd|passphrase|secret|token|pwd`)
	// bare is user:password@ without a scheme.
	bare = regexp.MustCompile(`([^\s:/@"'` + "`" + `=,]+):([^\s"'` + "`" + `]+)@`)
)

// Text hides what looks like a secret in any text, such as another package's error.
func Text(s string) string {
	if !strings.ContainsAny(s, "@=:") {
		return s
	}
	s = userinfo.ReplaceAllStringFunc(s, func(m string) string {
		parts := userinfo.FindStringSubmatch(m)
		scheme, info := parts[1], parts[2]
		if strings.ContainsAny(info, "?&") && strings.Contains(info, "=") {
			return scheme + "://" + Hidden // an @ in a parameter, or a ? in a password
		}
		return scheme + "://" + user(scheme, info) + "@" + parts[3]
	})
	s = query.ReplaceAllStringFunc(s, func(m string) string {
		name, value, _ := strings.Cut(m[1:], "=")
		plain, err := url.QueryUnescape(name)
		if value == "" || err == nil && !secretName.MatchString(plain) {
			return m
		}
		return m[:1] + name + "=" + Hidden
	})
	s = keywords(s)
	return bare.ReplaceAllStringFunc(s, func(m string) string {
		name, rest, _ := strings.Cut(m, ":")
		if rest == Hidden+"@" || strings.HasPrefix(rest, "//") {
			return m
		}
		return name + ":" + Hidden + "@"
	})
}

// keywords hides the values of settings.
func keywords(s string) string {
	var b strings.Builder
	for {
		at := keyword.FindStringSubmatchIndex(s)
		if at == nil {
			return b.String() + s
		}
		end, m, key := at[1], s[at[0]:at[1]], s[at[2]:at[3]]
		switch {
		case strings.HasSuffix(m, "="+Hidden) || strings.Contains(m, "="+Hidden+"&") || strings.Contains(m, "="+Hidden+"#"):
			b.WriteString(s[:end]) // done as a URL's parameter
		case names(s[:at[2]], key):
			end = at[3]
			b.WriteString(s[:end])
		default:
			b.WriteString(s[:at[3]] + Hidden)
		}
		s = s[end:]
	}
}

// names reports whether a key with a colon is a file in a message about it, whose next word is no value: its
// path contains a slash.
func names(before, key string) bool {
	if !strings.HasSuffix(strings.TrimRight(key, " \t\r\n\v\f"), ":") {
		return false
	}
	path := before[strings.LastIndexAny(before, " \t\r\n\v\f\"'`=,")+1:]
	return strings.ContainsAny(path, `/\`) && !strings.ContainsAny(path, "?&@")
}

// user returns the name before a password. A name without password is shown for PostgreSQL, where
// it is a user, and hidden otherwise, as it may be a token.
func user(scheme, info string) string {
	name, _, withPassword := strings.Cut(info, ":")
	switch {
	case withPassword && !strings.ContainsAny(name, "/?#@"):
		return name + ":" + Hidden
	case !withPassword && strings.HasPrefix(strings.ToLower(scheme), "postgres") && !strings.ContainsAny(info, "/?#@"):
		return info
	default:
		return Hidden
	}
}

// Conn hides the secrets of a connection string.
func Conn(s string) string {
	if scheme, rest, ok := strings.Cut(s, "://"); ok {
		// One URL, so that the user's part may have spaces, which end it in Text.
		if i := strings.LastIndexByte(rest, '@'); i >= 0 && strings.ContainsAny(rest[:i], " \t\r\n\v\f") {
			return Text(scheme + "://" + Hidden + rest[i:])
		}
	}
	t := Text(s)
	if i := strings.LastIndexByte(t, '@'); i >= 0 && !strings.Contains(t[:i], "://") && !strings.Contains(t[:i], Hidden) && !strings.ContainsAny(t, "= ") {
		return Hidden + t[i:] // a token, or half a password, in front of a host
	}
	return t
}

// Why describes what is wrong with a connection string in URL form, as far as possible without its
// user, password and parameters. It returns "" if only those are wrong, or if it is not a URL.
func Why(s string) string {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		return ""
	}
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		if strings.ContainsAny(rest[:i], "/?#@ ") {
			return "one of / ? # @ or a space in the user or password must be percent-encoded"
		}
		rest = rest[i+1:]
	}
	if i := strings.IndexAny(rest, "?#"); i >= 0 {
		rest = rest[:i]
	}
	_, err := url.Parse(scheme + "://" + rest)
	if e, ok := err.(*url.Error); ok {
		return e.Err.Error()
	}
	return ""
}

// Error returns err with a text without secrets; errors.Is and As still work. Nil stays nil.
func Error(err error) error {
	if err == nil {
		return nil
	}
	text := Text(err.Error())
	if text == err.Error() {
		return err
	}
	return &masked{text, err}
}

type masked struct {
	text string
	err  error
}

func (m *masked) Error() string { return m.text }
func (m *masked) Unwrap() error { return m.err }
