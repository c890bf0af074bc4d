package services

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// node is a service in the manager's start order.
type node struct {
	spec Spec
	own  bool // one of the program's services

	anew chan struct{} // capacity 1; notified by Restart

	mu       sync.Mutex
	started  bool        // guarded by mu; Start has succeeded, Stop has not begun
	restarts []time.Time // guarded by mu; those within the last Spec.Within
	total    int         // guarded by mu
	err      error       // guarded by mu; the last error
}

// order sorts the services by start order, or returns an error if that is impossible.
func (m *Manager) order() error {
	all, err := m.collect()
	if err != nil {
		return err
	}
	state := map[string]int{} // 1: being visited, 2: placed
	var path []string
	var visit func(name string) error
	visit = func(name string) error {
		path = append(path, name)
		defer func() { path = path[:len(path)-1] }()
		switch state[name] {
		case 1:
			return fmt.Errorf("services: dependency cycle: %s", strings.Join(path, " > "))
		case 2:
			return nil
		}
		state[name] = 1
		i := slices.IndexFunc(all, func(n *node) bool { return n.spec.Name == name })
		if i < 0 {
			return nil // it could not be created
		}
		n := all[i]
		for _, need := range n.spec.After {
			if err := visit(need); err != nil {
				return err
			}
		}
		state[name] = 2
		m.nodes = append(m.nodes, n)
		return nil
	}
	var errs []error
	for _, n := range all {
		if err := visit(n.spec.Name); err != nil {
			errs = append(errs, err)
			break
		}
	}
	return errors.Join(errs...)
}

// collect lists the manager's services, then the program's, with their dependencies.
func (m *Manager) collect() ([]*node, error) {
	if m.controller == nil {
		return nil, nil // make has failed
	}
	var all []*node
	var kernel []string
	add := func(name string, s Service) {
		all = append(all, &node{spec: Spec{Name: name, Service: s, After: slices.Clone(kernel)}})
		kernel = append(kernel, name)
	}
	add(NamePool, m.pool)
	if m.db != nil {
		add(NameDB, m.db)
	}
	add(NameTimers, m.timers)
	add(NameCache, m.cache)
	if m.events != nil {
		add(NameEvents, m.events)
	}
	names := map[string]bool{}
	for _, k := range kernel {
		names[k] = true
	}
	var tcp *node
	if m.server != nil {
		tcp = &node{spec: Spec{Name: NameTCP, Service: m.server, After: slices.Clone(kernel)}}
	}
	// A service that could not be created has been reported; do not report those that depend on it.
	names[NameTCP] = m.cfg.Server != nil
	if m.cfg.DB != nil && m.db == nil {
		names[NameDB], names[NameEvents] = true, true
	}
	var errs []error
	for _, s := range m.cfg.Services {
		switch {
		case s.Name == "" || s.Service == nil:
			errs = append(errs, fmt.Errorf("services: a service without a name, or a nil service: %q", s.Name))
		case names[s.Name]:
			errs = append(errs, fmt.Errorf("services: two services are called %q", s.Name))
		}
		names[s.Name] = true
		s.After = append(slices.Clone(kernel), s.After...)
		if s.Within == 0 {
			s.Within = time.Minute
		}
		if b, ok := s.Service.(interface{ bind(*Manager) }); ok {
			b.bind(m)
		}
		all = append(all, &node{spec: s, own: true, anew: make(chan struct{}, 1)})
	}
	for _, n := range all {
		for _, need := range n.spec.After {
			if !names[need] {
				errs = append(errs, fmt.Errorf("services: %q needs %q, which does not exist", n.spec.Name, need))
			}
		}
	}
	if tcp != nil {
		tcp.spec.After = append(tcp.spec.After, beforeTCP(all)...)
		all = append(all, tcp)
	}
	return all, errors.Join(errs...)
}

// beforeTCP names the program's services that do not depend on the server, directly or indirectly.
func beforeTCP(all []*node) []string {
	needs := map[string]bool{NameTCP: true}
	for changed := true; changed; {
		changed = false
		for _, n := range all {
			if !needs[n.spec.Name] && slices.ContainsFunc(n.spec.After, func(s string) bool { return needs[s] }) {
				needs[n.spec.Name], changed = true, true
			}
		}
	}
	var names []string
	for _, n := range all {
		if n.own && !needs[n.spec.Name] {
			names = append(names, n.spec.Name)
		}
	}
	return names
}

func (m *Manager) node(name string) *node {
	for _, n := range m.nodes {
		if n.spec.Name == name {
			return n
		}
	}
	return nil
}
