package dbasync

import (
	"fmt"
	"slices"
	"strings"
)

// Stmt is one SQL statement and how it may travel. Parameters are $1, $2, …: there
// is no way to put a value into the text. Stored procedures: `select f($1)` and
// `call p($1)`.
type Stmt struct {
	SQL string
	// Key, when not 0, keeps order: queries with one key run one after another and
	// their completions are submitted in the order of their Query calls. A session's id is the natural
	// key. A query that its context or timeout ends completes out of turn.
	Key uint64
	// ReadOnly says that it writes nothing. With Config.GroupReads several of one
	// burst share a READ ONLY transaction, in which a write fails.
	ReadOnly bool
	// Slow runs it on the slow connections, so that no other waits behind it.
	Slow bool
	// Retry says that it may run more than once: when its connection is lost it
	// is sent again (three times at most) instead of ending as MayHaveRun.
	Retry bool
}

// class is what the first keyword of a statement says about where it may run.
type class uint8

const (
	classPlain  class = iota
	classStrict       // under a Sync of its own: a procedure may commit inside
	classSlow         // refuses a transaction block: an ordinary connection
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

// classify looks at the first keywords of sql, and in a few cases for a word anywhere
// in it.
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
		// Its own Sync, and so a transaction begun anew: what is set for a transaction
		// must not reach one that is chained to it, or that shares it.
		cl = classStrict
	}
	return cl, word
}

// sessionLocks hold on beyond the transaction, for whoever shares the connection.
var sessionLocks = []string{"pg_advisory_lock", "pg_advisory_lock_shared", "pg_try_advisory_lock", "pg_try_advisory_lock_shared"}

// calls tells whether lower calls the function name.
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

// leadingWords are the first words of lower, without comments between them; enough to
// tell what kind of thing a statement makes.
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
	return append(words, "", "") // so that two are there
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

// refusesBlock: PostgreSQL runs it outside a transaction block only.
func refusesBlock(words []string) bool {
	switch words[1] {
	case "database", "tablespace", "system", "subscription":
		return true
	}
	return words[0] != "refresh" && slices.Contains(words, "concurrently")
}

// altersTables: a statement that begins with word may make or alter what others use.
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

// firstWord returns the first keyword of sql in lower case; spaces, comments
// (nested ones too), semicolons and opening brackets before it don't count.
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

// skipComment returns the index behind the comment that opens at i.
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
