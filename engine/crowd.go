package engine

import "millrace/engine/internal/door"

// roomForLink reports whether one more connection may wait for its first frame, which may resume a
// session that already has a slot. If MaxConns are waiting, the loop's connection that has waited
// longest is closed to make room; a loop that has none accepts one more. Loop goroutine.
func (l *loop) roomForLink() bool {
	srv := l.srv
	if srv.pending.Load() < int64(srv.cfg.MaxConns) {
		return true
	}
	first := l.silent.Front()
	if first == nil {
		return true
	}
	k := first.Value.(*link)
	if !past(srv.now(), k.since, door.YieldAfter) {
		return false
	}
	no := srv.refuse(nil, RefusedConns, "")
	many := len(l.links)-l.silent.Len() >= max(1, srv.cfg.MaxRefused/srv.cfg.Loops)
	k.turnAway(no)
	if many { // are waiting for their peers' FIN
		k.close()
	}
	return true
}

// addLink records a connection that has no session, or one of another loop.
func (l *loop) addLink(k *link) {
	if k.place == 0 {
		l.links = append(l.links, k)
		k.place = len(l.links)
	}
}

// dropLink removes it.
func (l *loop) dropLink(k *link) {
	if k.place == 0 {
		return
	}
	last := len(l.links) - 1
	moved := l.links[last]
	l.links[k.place-1], moved.place = moved, k.place
	l.links[last] = nil
	l.links = l.links[:last]
	k.place = 0
}
