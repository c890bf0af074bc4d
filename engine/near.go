package engine

import (
	"encoding/json"
	"net/netip"
	"slices"
	"sync"
	"time"

	"millrace/engine/internal/flight"
)

// Limit is a limit of Config that may be nearly reached.
type Limit uint8

const (
	LimitConns       Limit = iota // MaxConns
	LimitConnsPerIP               // MaxConnsPerIP
	LimitFiles                    // the process's open files, as far as connections may use them
	LimitOutbound                 // MaxOutbound
	LimitPending                  // MaxPending
	LimitTasks                    // MaxTasks
	LimitFrame                    // MaxFrame; only frames that arrive in several reads are checked
	LimitGroups                   // MaxGroups
	LimitResumeBytes              // ResumeBytes
	LimitOutbox                   // MaxOutbox, of one loop
	LimitMemory                   // MemoryBudget
	LimitQueue                    // MaxQueue, of the pool
	limitCount
)

var limitNames = [limitCount]string{"max_conns", "max_conns_per_ip", "open_files", "max_outbound", "max_pending", "max_tasks",
	"max_frame", "max_groups", "resume_bytes", "max_outbox", "memory_budget", "max_queue"}

func (l Limit) String() string { return name(limitNames[:], int(l)) }

// MarshalText makes Limit usable as a key in JSON.
func (l Limit) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

func (l *Limit) UnmarshalText(b []byte) error { return parse((*uint8)(l), limitNames[:], b) }

// NearMiss reports that a limit was reached to nine tenths or more. For one limit and session there
// is at most one a second; likewise for a limit that belongs to no session.
type NearMiss struct {
	Limit   Limit
	At      time.Time
	Session ID     // the session of the limit, or the one that connected then; 0 for none
	Remote  string // the session's peer; "" for none
	Used    int    // in the limit's unit, bytes or a count
	Most    int    // the limit
}

// MarshalJSON writes the near miss with names in lower case.
func (n NearMiss) MarshalJSON() ([]byte, error) {
	x := struct {
		Limit   Limit     `json:"limit"`
		At      time.Time `json:"at"`
		Session string    `json:"session,omitempty"`
		Remote  string    `json:"addr,omitempty"`
		Used    int       `json:"used"`
		Most    int       `json:"most"`
	}{n.Limit, n.At, "", n.Remote, n.Used, n.Most}
	if n.Session != 0 {
		x.Session = n.Session.String()
	}
	return json.Marshal(x)
}

// NearMisses returns the last RecorderKeep near misses, oldest first.
func (srv *Server) NearMisses() []NearMiss { return srv.nears.last.all() }

// Stalls returns the last RecorderKeep callbacks that took longer than StallAfter, as they were
// reported, oldest first: those on the server's loops, and on workers those of its sessions; with
// its own Pool also those of the pool's functions and strands.
func (srv *Server) Stalls() []Stall { return srv.stallLog.all() }

// onPoolStall records stalls in a pool of the server's own.
func (srv *Server) onPoolStall(st Stall) {
	if !slices.Contains(srv.stallLog.all(), st) { // not already recorded for a session
		srv.stallLog.add(st)
	}
	if srv.cfg.OnStall != nil {
		srv.cfg.OnStall(st)
	}
}

// nears are a server's near misses.
type nears struct {
	last lastN[NearMiss]

	mu    sync.Mutex
	seen  map[nearKey]int64 // guarded by mu; time of the last one, on the server's clock
	swept int64             // guarded by mu; when old entries were last removed
}

// nearKey identifies near misses that are counted together.
type nearKey struct {
	what Limit
	id   ID
	ip   netip.Addr
}

const (
	nearEvery = time.Second
	nearMost  = 4096 // most keys remembered; beyond that others are not recorded
)

// isNear reports whether used is at least nine tenths of most.
func isNear(used, most int) bool { return used >= most-most/10 }

// near records that a limit is nearly reached. s is its session, or the one that has just
// connected; it may be nil.
func (srv *Server) near(what Limit, s *Session, used, most int) {
	now, key := srv.now(), nearKey{what: what}
	if s != nil {
		switch what {
		case LimitConns, LimitFiles:
		case LimitConnsPerIP:
			key.ip, _ = srv.perIP.Key(s.RemoteAddr())
		default:
			key.id = s.id
		}
	}
	if !srv.nears.first(key, now) {
		return
	}
	srv.nearCount[what].Add(1)
	n := NearMiss{Limit: what, At: srv.clock(now), Used: used, Most: most}
	if s != nil {
		n.Session, n.Remote = s.id, addrText(s.RemoteAddr())
		s.note(flight.Near, uint32(what), uint32(min(int64(used)*100/int64(max(most, 1)), maxUint32)))
	}
	srv.nears.last.add(n)
	if hook := srv.cfg.OnNearMiss; hook != nil {
		srv.hooks.call("OnNearMiss", n.Session, func() { hook(n) })
	}
}

// first reports whether there was none with the key within a second, and records one.
func (n *nears) first(key nearKey, now int64) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if at, ok := n.seen[key]; ok && now-at < int64(nearEvery) {
		return false
	}
	if len(n.seen) >= nearMost && now-n.swept >= int64(nearEvery)/8 {
		n.swept = now
		for k, at := range n.seen {
			if now-at >= int64(nearEvery) {
				delete(n.seen, k)
			}
		}
	}
	if _, ok := n.seen[key]; !ok && len(n.seen) >= nearMost {
		return false
	}
	if n.seen == nil {
		n.seen = map[nearKey]int64{}
	}
	n.seen[key] = now
	return true
}

// nearAccept checks the limits on connections when a session was accepted on descriptor fd.
func (srv *Server) nearAccept(s *Session, fd int) {
	a := srv.adjusted.Load()
	if n, most := int(srv.conns.Load()), a.MaxConns; most > 0 && isNear(n, most) {
		srv.near(LimitConns, s, n, most)
	}
	if most := a.MaxConnsPerIP; most > 0 {
		if n := srv.perIP.Count(s.RemoteAddr()); isNear(n, most) {
			srv.near(LimitConnsPerIP, s, n, most)
		}
	}
	if most := int(srv.fdShed.Load()); isNear(fd, most) {
		srv.near(LimitFiles, s, fd, most)
	}
}

// nearNow checks the limits that belong to no session. peak is the largest amount of memory held
// since the last check. The ticker calls it.
func (srv *Server) nearNow(peak int) {
	if most := srv.budget.Limit(); isNear(peak, most) {
		srv.near(LimitMemory, nil, peak, most)
	}
	for _, l := range srv.allLoops() {
		if n := int(l.out.Queued.Load()); isNear(n, l.out.MaxQueued) {
			srv.near(LimitOutbox, nil, n, l.out.MaxQueued)
		}
	}
	if st := srv.pool.Stats(); isNear(st.Queue, st.MaxQueue) {
		srv.near(LimitQueue, nil, st.Queue, st.MaxQueue)
	}
}
