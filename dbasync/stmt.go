package dbasync

import (
	"fmt"
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

// classify looks at the first keyword of sql, and no further.
func classify(sql string) (class, string) {
	word := firstWord(sql)
	return keywords[word], word
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
