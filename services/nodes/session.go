package nodes

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"millrace/engine"
	"millrace/services/cluster"
	"millrace/services/nodes/internal/envelope"
)

// SessionID identifies a session among all that have ever been in the cluster.
type SessionID struct {
	Process uint64 // the session's process: as cluster.Cache.Process
	Session engine.ID
}

// String returns the ID as 32 hexadecimal digits.
func (id SessionID) String() string { return hex.EncodeToString(id.bytes()) }

func (id SessionID) bytes() []byte {
	b := binary.BigEndian.AppendUint64(nil, id.Process)
	return binary.BigEndian.AppendUint64(b, uint64(id.Session))
}

// ParseSessionID parses the format of String.
func ParseSessionID(s string) (SessionID, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != 16 {
		return SessionID{}, fmt.Errorf("nodes: session id %q: must be 32 hexadecimal digits", s)
	}
	return sessionID(b)
}

func sessionID(b []byte) (SessionID, error) {
	if len(b) != 16 {
		return SessionID{}, errors.New("nodes: a session ID must have 16 bytes")
	}
	return SessionID{binary.BigEndian.Uint64(b), engine.ID(binary.BigEndian.Uint64(b[8:]))}, nil
}

// ID returns the cluster-wide ID of a session of this node.
func (n *Node) ID(s *engine.Session) SessionID { return SessionID{n.process, s.ID()} }

// Send sends an unsolicited frame to a session of any node. For a session of another node it
// doesn't report whether the session still exists. Errors: those of Session.Push for a session of
// this node; cluster.ErrUnavailable if its node is not known to live.
func (n *Node) Send(id SessionID, main, sub uint16, body []byte) error {
	if id.Process == n.process {
		s := n.session(id.Session)
		if s == nil {
			return engine.ErrClosed
		}
		return s.Push(main, sub, body)
	}
	if _, ok := n.byProcess(id.Process); !ok {
		return cluster.ErrUnavailable
	}
	return n.to(id.Process).publish(n, nodeSubject(id.Process), envelope.Envelope{
		Kind: envelope.Send, Session: uint64(id.Session), Handle: handle(main, sub), Body: body,
	})
}

// Broadcast sends an unsolicited frame to every session of every node. On this node it is
// engine.Server.Broadcast or, if s is the session whose callback calls it, Session.Broadcast.
// Sessions of other nodes get it if the bus is connected.
func (n *Node) Broadcast(s *engine.Session, main, sub uint16, body []byte) error {
	n.casts.mu.RLock()
	defer n.casts.mu.RUnlock()
	err := error(nil)
	switch {
	case s != nil:
		err = s.Broadcast(main, sub, body)
	default:
		err = n.broadcastHere(main, sub, body)
	}
	if err != nil || n.bus == nil {
		return err
	}
	e := envelope.Envelope{Kind: envelope.Broadcast, Source: n.process, Handle: handle(main, sub), Body: body}
	e.Number, err = n.all.number(n, subjectAll, e)
	n.casts.pass(e)
	n.lose(err)
	return nil
}

func (n *Node) broadcastHere(main, sub uint16, body []byte) error {
	if srv := n.server(); srv != nil {
		return srv.Broadcast(main, sub, body)
	}
	return nil
}

func handle(main, sub uint16) uint32 { return uint32(main)<<16 | uint32(sub) }

func split(h uint32) (main, sub uint16) { return uint16(h >> 16), uint16(h) }
