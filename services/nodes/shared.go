package nodes

import (
	"millrace/services"
	"millrace/services/cluster"
)

// shared is a node's cache that makes a manager start the node too.
type shared struct {
	*cluster.Cache
	n *Node
}

var _ services.Extender = shared{}

// Shared returns the value for services.Config.Shared: the node's Cache together with the node,
// which starts after the cache and before the server, whose sessions belong to it.
//
// If the node has no Cache, it returns nil.
func Shared(n *Node) services.Cache {
	if n.cache == nil {
		return nil
	}
	return shared{n.cache, n}
}

// ServiceName is the node's name among the manager's services.
const ServiceName = "node"

// Extend implements services.Extender.
func (s shared) Extend(m *services.Manager) []services.Spec {
	s.n.Attach(m.TCP(), m.Async())
	return []services.Spec{{Name: ServiceName, Service: s.n}}
}
