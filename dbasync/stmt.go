package dbasync

import (
	"fmt"
	"slices"
	"strings"
)

// Stmt is one SQL statement and how it may be run. Parameters are written $1, $2, …: values can't
// be put into the text. Stored procedures: `select f($1)` and `call p($1)`.
type Stmt struct {
	SQL string
	// Key, if not 0, keeps order: queries with the same key run one after another, and their
	// completions are submitted in the order of the Query calls. A session's ID is the natural key.
	// Two exceptions: a query that its context or timeout ends completes out of order, and one that
	// ends as MayHaveRun may still be running while later ones of its key run.
	Key uint64
	// ReadOnly declares that the statement writes nothing. With Config.GroupReads several of one
	// burst share a READ ONLY transaction, in which a write fails.
	ReadOnly bool
	// Slow runs the statement on the slow connections, so that no other query waits for it.
	Slow bool
	// Retry allows the statement to run more than once: if its connection is lost it is sent again
	// (at most three times) instead of ending as MayHaveRun. If it then fails or does not run, the
	// outcome is still MayHaveRun.
	Retry bool
}

// class is where a statement may run, according to its first keywords.
type class uint8

const (
	classPlain  class = iota
	classStrict       // under a Sync of its own: a procedure may commit inside
	classSlow         // not allowed in a transaction block: an ordinary connection
	classState        // controls a transaction or a connection: Tx, Do, CopyFrom, Listen
)

var keywords = map[string]class{
	"call": classStrict, "do": classStrict,
	"vacuum": classSlow, "reindex": classSlow, "cluster": classSlow, "checkpoint": classSlow,
	"begin": classState, "start": classState, "commit": classState, "end": classState,
	"abort": classState, "rollback": classState, "savepoint": classState, "release": classState,
	"prepare": classState, "execute": classState, "deallocate": classState, "set": classState,
	"reset": classState, "discard": classState, "load": classState, "listen": classState, "unlisten": classState,
	"copy": classState, "declare": classState, "fetch": classState, "move": classState, "close": classState,
	"lock": classState,
}

// classify examines the first keywords of sql, and for a few cases the whole text. It returns the
// class and the keyword that decided it.
func classify(sql string) (class, string) {
	word := firstWord(sql)
	cl := keywords[word]
	if cl != classPlain && cl != classStrict {
		return cl, word
	}
	lower := strings.ToLower(sql)
	words := leadingWords(lower)
	switch word {
	case "create", "drop", "alter", "refresh":
		if createsTemp(words) {
			return classState, word + " temp"
		}
		if refusesBlock(words) {
			return classSlow, strings.Join(words[:2], " ")
		}
	case "select", "with", "values", "table":
		if strings.Contains(lower, " into temp") || strings.Contains(lower, " into pg_temp") {
			return classState, "into temp"
		}
	}
	for _, f := range sessionLocks {
		if calls(lower, f) {
			return classState, f
		}
	}
	if calls(lower, "set_config") {
		// A Sync of its own, and so a new transaction: what is set for a transaction must not apply
		// to one that is chained to it, or that shares it.
		cl = classStrict
	}
	return cl, word
}

// sessionLocks are functions whose locks outlive the transaction, and so would stay with the shared
// connection.
var sessionLocks = []string{"pg_advisory_lock", "pg_advisory_lock_shared", "pg_try_advisory_lock", "pg_try_advisory_lock_shared"}

// calls reports whether lower calls the function name.
func calls(lower, name string) bool {
	for from := 0; ; {
		i := strings.Index(lower[from:], name)
		if i < 0 {
			return false
		}
		from += i + len(name)
		if strings.HasPrefix(strings.TrimLeft(lower[from:], " \t\r\n"), "(") {
			return true
		}
	}
}

// leadingWords returns the first words of lower, without comments between them: enough to see what
// kind of object a statement creates.
func leadingWords(lower string) (words []string) {
	for len(words) < 8 {
		lower = lower[skipBlank(lower):]
		word := firstWord(lower)
		if word == "" {
			break
		}
		words = append(words, word)
		lower = lower[len(word):]
	}
	return append(words, "", "") // so that there are at least two
}

func createsTemp(words []string) bool {
	for _, w := range words[1:] {
		switch w {
		case "temp", "temporary", "pg_temp":
			return true
		case "or", "replace", "global", "local":
			continue
		}
		return false
	}
	return false
}

// refusesBlock reports whether PostgreSQL runs the statement only outside a transaction block.
func refusesBlock(words []string) bool {
	switch words[1] {
	case "database", "tablespace", "system", "subscription":
		return true
	}
	return words[0] != "refresh" && slices.Contains(words, "concurrently")
}

// altersTables reports whether a statement that begins with word may create or alter objects that
// other statements use.
func altersTables(word string) bool {
	switch word {
	case "create", "alter", "drop", "do", "call":
		return true
	}
	return false
}

func stateError(word string) error {
	return fmt.Errorf("%w: %s", ErrNotOnLane, strings.ToUpper(word))
}

// firstWord returns the first keyword of sql in lower case. It skips spaces, comments (nested ones
// too), semicolons and opening brackets.
func firstWord(sql string) string {
	i := skipBlank(sql)
	j := i
	for j < len(sql) && (sql[j]|0x20 >= 'a' && sql[j]|0x20 <= 'z' || sql[j] == '_') {
		j++
	}
	return strings.ToLower(sql[i:j])
}

func skipBlank(sql string) int {
	i := 0
	for i < len(sql) {
		switch c := sql[i]; {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v' || c == '(' || c == ';':
			i++
		case strings.HasPrefix(sql[i:], "--"):
			n := strings.IndexAny(sql[i:], "\r\n")
			if n < 0 {
				return len(sql)
			}
			i += n
		case strings.HasPrefix(sql[i:], "/*"):
			i = skipComment(sql, i)
		default:
			return i
		}
	}
	return i
}

// skipComment returns the index after the comment that begins at i.
func skipComment(sql string, i int) int {
	depth := 0
	for i < len(sql) {
		switch {
		case strings.HasPrefix(sql[i:], "/*"):
			depth++
			i += 2
		case strings.HasPrefix(sql[i:], "*/"):
			depth--
			i += 2
			if depth == 0 {
				return i
			}
		default:
			i++
		}
	}
	return i
}
