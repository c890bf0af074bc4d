package dbasync

import "strings"

// endsTx reports whether sql, or a statement in it, may end a transaction. If it can't decide, as
// for the body of a function in standard SQL form, it returns true.
func endsTx(sql string) bool {
	for sql != "" {
		var one string
		one, sql = cutStatement(sql)
		switch firstWord(one) {
		case "commit", "end", "abort":
			return true
		case "rollback":
			words := leadingWords(strings.ToLower(one))
			if words[1] != "to" && words[2] != "to" { // TO SAVEPOINT
				return true
			}
		case "prepare":
			if leadingWords(strings.ToLower(one))[1] == "transaction" {
				return true
			}
		}
	}
	return false
}

// cutStatement returns the first statement of sql and the text after its semicolon. Semicolons in
// literals, quoted names and comments don't count.
func cutStatement(sql string) (one, rest string) {
	for i := 0; i < len(sql); {
		switch c := sql[i]; {
		case c == ';':
			return sql[:i], sql[i+1:]
		case c == '\'' || c == '"':
			i = skipQuoted(sql, i, i > 0 && sql[i-1]|0x20 == 'e')
		case c == '$':
			i = skipDollars(sql, i)
		case strings.HasPrefix(sql[i:], "--"):
			n := strings.IndexAny(sql[i:], "\r\n")
			if n < 0 {
				return sql, ""
			}
			i += n
		case strings.HasPrefix(sql[i:], "/*"):
			i = skipComment(sql, i)
		default:
			i++
		}
	}
	return sql, ""
}

// skipQuoted returns the index after the quoted text that begins at i. A doubled quote in it is
// taken as the end of one text and the beginning of the next.
func skipQuoted(sql string, i int, escapes bool) int {
	quote := sql[i]
	for i++; i < len(sql); i++ {
		switch {
		case sql[i] == quote:
			return i + 1
		case escapes && sql[i] == '\\':
			i++
		}
	}
	return len(sql)
}

// skipDollars returns the index after the $tag$ text that begins at i, or after the dollar sign if
// none begins there.
func skipDollars(sql string, i int) int {
	n := strings.IndexByte(sql[i+1:], '$')
	if n < 0 || !isTag(sql[i+1:i+1+n]) || i > 0 && isTag(sql[i-1:i]) {
		return i + 1
	}
	tag := sql[i : i+n+2]
	end := strings.Index(sql[i+len(tag):], tag)
	if end < 0 {
		return len(sql)
	}
	return i + len(tag) + end + len(tag)
}

// isTag reports whether s is a dollar-quote tag: letters, digits, underscores and non-ASCII; not a
// digit first.
func isTag(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := c|0x20 >= 'a' && c|0x20 <= 'z' || c == '_' || c >= 0x80
		if !letter && (c < '0' || c > '9' || i == 0) {
			return false
		}
	}
	return true
}
