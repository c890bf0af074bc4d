package nodes

import (
	"millrace/engine"
	"millrace/services/nodes/internal/envelope"
)

// TakeUser is what the node does with a frame for a user's session that another has sent by
// that epoch: whether it takes it, or knows of a newer one.
func (n *Node) TakeUser(id engine.ID, user string, epoch uint64) (taken, stale bool) {
	a := n.users.deliver(envelope.Envelope{Kind: envelope.User, Session: uint64(id), Key: user, Epoch: epoch, Handle: 6<<16 | 6})
	return a.Flags == userTaken, a.Flags == userStale
}

// Tenures is of how many sessions the node keeps that they have users.
func (n *Node) Tenures() int {
	n.users.mu.Lock()
	defer n.users.mu.Unlock()
	return len(n.users.sessions)
}

// Streams is to how many processes the node keeps a stream.
func (n *Node) Streams() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.peers)
}
