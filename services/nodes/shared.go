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

// lone is the same for a node without a Cache.
type lone struct {
	*services.Memory
	n *Node
}

var (
	_ services.Extender = shared{}
	_ services.Extender = lone{}
)

// Shared returns the value for services.Config.Shared: the node's Cache together with the node,
// which starts after the cache and before the server, whose sessions belong to it.
//
// If the node has no Cache, the cache is a services.Memory with the default limits.
func Shared(n *Node) services.Cache {
	if n.cache != nil {
		return shared{n.cache, n}
	}
	m, err := services.NewMemory(services.MemoryConfig{})
	if err != nil {
		panic("nodes: the default cache: " + err.Error())
	}
	return lone{m, n}
}

// ServiceName is the node's name among the manager's services.
const ServiceName = "node"

// Extend implements services.Extender.
func (s shared) Extend(m *services.Manager) []services.Spec { return s.n.spec(m) }

// Extend implements services.Extender.
func (l lone) Extend(m *services.Manager) []services.Spec { return l.n.spec(m) }

func (n *Node) spec(m *services.Manager) []services.Spec {
	n.Attach(m.TCP(), m.Async())
	return []services.Spec{{Name: ServiceName, Service: n}}
}
