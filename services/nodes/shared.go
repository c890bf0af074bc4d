package nodes

import (
	"millrace/services"
	"millrace/services/cluster"
)

// shared is a node's cache that has a manager start the node too.
type shared struct {
	*cluster.Cache
	n *Node
}

var _ services.Extender = shared{}

// Shared is what services.Config.Shared takes: the node's Cache, and with it the node, which
// starts behind the cache and in front of the server, whose sessions are its own.
//
// Of a node without a Cache it is nil.
func Shared(n *Node) services.Cache {
	if n.cache == nil {
		return nil
	}
	return shared{n.cache, n}
}

// ServiceName is the node's among the manager's services.
const ServiceName = "node"

// Extend implements services.Extender.
func (s shared) Extend(m *services.Manager) []services.Spec {
	s.n.Attach(m.TCP(), m.Async())
	return []services.Spec{{Name: ServiceName, Service: s.n}}
}
