package engine

import "millrace/engine/internal/door"

// roomForLink tells whether one more connection may wait for its first frame, which may ask
// for a session that has its place already. Where MaxConns wait the one of the loop's that has
// waited longest is turned away for it; a loop that has none takes one more. Loop goroutine.
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
	if many { // wait for their peers' FIN
		k.close()
	}
	return true
}

// addLink notes a connection that has no session, or another loop's.
func (l *loop) addLink(k *link) {
	if k.place == 0 {
		l.links = append(l.links, k)
		k.place = len(l.links)
	}
}

// dropLink forgets it.
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
