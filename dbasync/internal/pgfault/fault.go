// Package pgfault is a proxy for tests that stands between a PostgreSQL client and its
// server, or a pooler and its server, knows the messages of their protocol and does harm
// at one of them: it ends the connection, stalls it or delays it, before, within or after
// that message.
//
//	p := pgfault.New(t, "127.0.0.1:5432")
//	p.Arm(pgfault.Fault{}) // none: a run that counts
//	… // a client of p.Addr()
//	n := len(p.Messages(pgfault.Up))
//	p.Arm(pgfault.Fault{Dir: pgfault.Up, Index: n - 1, Where: pgfault.Before, Act: pgfault.Reset})
//
// Each connection has four goroutines, a reader and a writer per direction, with at most
// 1,024 messages between them. The proxy speaks no TLS: it refuses a client's request for
// it, as a server without TLS does, and does not count that.
package pgfault

import (
	"fmt"
	"time"
)

// Direction is from the client to the server, or back.
type Direction int

// Directions.
const (
	Up Direction = iota
	Down
)

func (d Direction) String() string { return [...]string{"up", "down"}[d] }

// Where the fault is, as seen from its message.
type Where int

// Places: nothing of the message has been passed on, half of its bytes, or all.
const (
	Before Where = iota
	Within
	After
)

func (w Where) String() string { return [...]string{"before", "within", "after"}[w] }

// Act is what is done.
type Act int

const (
	// None only counts.
	None Act = iota
	// Reset ends both sides of the connection with RST: what an end has not read is lost.
	Reset
	// Finish ends both with FIN: each may read, and run, what it has been sent before.
	Finish
	// Stall lets nothing more through on the connection, in either direction, until Heal.
	// What is sent meanwhile is kept. It ends when the client closes the connection.
	Stall
	// Delay holds the message and what follows it in its direction for Fault.For.
	Delay
)

func (a Act) String() string { return [...]string{"none", "reset", "finish", "stall", "delay"}[a] }

// Fault names a message and what is done there, once.
type Fault struct {
	Dir   Direction
	Index int // of the message: how many of its direction came before it since Arm, on all connections
	Where Where
	Act   Act
	For   time.Duration // of Delay
}

func (f Fault) String() string {
	return fmt.Sprintf("%v %v %v %d", f.Act, f.Where, f.Dir, f.Index)
}

// Unreadable is the Type of what pgproto3 can't read, which is passed on all the same: a
// pooler that loses one side within a message goes on with one of its own.
const Unreadable = "Unreadable"

// Message is one that the proxy has come to.
type Message struct {
	Dir  Direction
	Conn int    // which connection since New, from 0
	Type string // as package pgproto3 names it, or Unreadable
	Text string // the SQL of Query and Parse, the tag of CommandComplete, the code of an error
	Size int    // bytes, all
}

func (m Message) String() string {
	if m.Text == "" {
		return m.Type
	}
	return m.Type + " " + m.Text
}
