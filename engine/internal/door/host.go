package door

import (
	"cmp"
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"millrace/engine/internal/budget"
	"millrace/engine/internal/netio"
)

// Config sets up a Host. The caller fills in the defaults.
type Config struct {
	Addrs []string // as ParseAddr takes them

	TLS              *tls.Config   // nil: no address may want TLS; it is not changed any more
	HandshakeTimeout time.Duration // of TLS
	MaxHandshakes    int           // TLS handshakes that are open
	FirstTimeout     time.Duration // from accept to the first frame, through all layers; 0: none
	Linger           time.Duration // for the peer's FIN behind ours

	Proxies      Sources // who sends a PROXY header
	ForwardedFor Sources // whose X-Forwarded-For is believed
	Origins      []string
	OnUpgrade    func(*http.Request) error // runs on the loop

	// Frames says how many bytes at the start of b are whole frames, and how long the frame
	// behind them is; 0: that is not known yet.
	Frames   func(b []byte) (whole, next int)
	Draining func() bool
	// Short tells whether a connection on descriptor fd must be turned away at once, as files
	// are short or too many connections are in front of their sessions.
	Short  func(fd int) bool
	Budget *budget.Budget
	Logger *slog.Logger
}

// Below is the network that connections come from.
type Below interface {
	Start(ctx context.Context) error
	Addrs() []net.Addr
	Guard()
	Stop(ctx context.Context) error
	// Listener is which of the addresses, in the order they were given, a connection came
	// to whose local address is a; below 0: none is known.
	Listener(a net.Addr) int
}

// Host stands between a network and the Host that has the sessions. It is the one's
// netio.Host and wraps the other.
type Host struct {
	Below
	cfg   Config
	host  netio.Host
	addrs []Addr
	st    counters

	places places
	plain  sync.Pool // *[]byte of maxPlain
	bg     sync.WaitGroup
	idle   atomic.Int64 // connections that only wait for their peers' FIN

	mu      sync.Mutex
	waiting map[uint32]*conn // guarded by mu; by conn.id
	lastID  uint32           // guarded by mu
	shakes  map[*conn]*shake // guarded by mu; TLS handshakes that are open
	again   *time.Timer      // guarded by mu; squeezes once more
	stopped bool             // guarded by mu
}

var _ netio.Host = (*Host)(nil)

// New makes a Host in front of host, and the network below it with listen, which is given
// the addresses to listen on.
func New(cfg Config, host netio.Host, listen func(sockets []string, h netio.Host) Below) (*Host, error) {
	h := &Host{cfg: cfg, host: host, waiting: map[uint32]*conn{}, shakes: map[*conn]*shake{}}
	var sockets []string
	for _, s := range cfg.Addrs {
		a, err := ParseAddr(s)
		if err != nil {
			return nil, err
		}
		h.addrs = append(h.addrs, a)
		sockets = append(sockets, a.Socket)
	}
	if t := cfg.TLS; t != nil {
		h.cfg.TLS = t.Clone()
		h.cfg.TLS.DynamicRecordSizingDisabled = true // a batch is as few records as it can be
		if t.MinVersion == 0 {
			h.cfg.TLS.MinVersion = tls.VersionTLS12
		}
	}
	h.places.free = make(chan struct{}, max(1, min(cfg.MaxHandshakes, 2*runtime.GOMAXPROCS(0))))
	h.plain.New = func() any { b := make([]byte, maxPlain); return &b }
	h.Below = listen(sockets, h)
	return h, nil
}

// URLs are the addresses that are listened on, as ParseAddr takes them.
func (h *Host) URLs() []string {
	var urls []string
	for i, a := range h.Below.Addrs() {
		urls = append(urls, h.addrs[i].URL(a))
	}
	return urls
}

// NewLoop makes a loop of the Host's.
func (h *Host) NewLoop(x netio.Loop) netio.Turner {
	l := &loop{Loop: x, opening: map[*conn]struct{}{}, closers: map[*conn]struct{}{}}
	l.turner = h.host.NewLoop(l)
	return l
}

// Open takes a connection through its layers. One that has none is the Host's at once.
func (h *Host) Open(t netio.Turner, x netio.Conn, fd int) (netio.Sink, netio.Refusal) {
	l := t.(*loop)
	i := h.Listener(x.LocalAddr())
	proxied := !h.cfg.Proxies.None() && h.cfg.Proxies.Has(x.RemoteAddr())
	if i < 0 || !h.addrs[i].layered() && !proxied {
		return h.host.Open(l.turner, x, fd)
	}
	if h.cfg.Short(fd) {
		return nil, netio.Refusal{AtOnce: true}
	}
	c := &conn{Conn: x, h: h, l: l, addr: &h.addrs[i], fd: fd, since: time.Now(), remote: x.RemoteAddr()}
	l.opening[c] = struct{}{}
	h.st.front.Add(1)
	c.startTimer()
	switch {
	case proxied:
	case c.addr.Auto:
		c.phase = firstByte
	case c.addr.TLS:
		c.beginTLS()
	default:
		c.phase = innerByte
	}
	return c, netio.Refusal{}
}

// startTimer bounds what is still in front of the session.
func (c *conn) startTimer() {
	c.stopTimer()
	left := time.Duration(-1)
	if d := c.h.cfg.FirstTimeout; d > 0 {
		left = max(time.Until(c.since.Add(d)), 0)
	}
	if c.phase == handshake && (left < 0 || left > c.h.cfg.HandshakeTimeout) {
		left = c.h.cfg.HandshakeTimeout
	}
	if left >= 0 {
		c.timer = time.AfterFunc(left, func() { c.l.post(c, (*conn).late) })
	}
}

// late ends a connection that did not become a session in time.
func (c *conn) late() {
	if c.phase < open {
		c.h.st.late.Add(1)
		c.kill()
	}
}

// passed takes a connection off those in front of a session.
func (h *Host) passed(c *conn) {
	if _, ok := c.l.opening[c]; ok {
		delete(c.l.opening, c)
		h.st.front.Add(-1)
	}
	h.leaveShakes(c)
}

// linger notes a connection that only waits for its peer's FIN; false: there are too many.
func (h *Host) linger(c *conn) bool {
	if h.idle.Add(1) > maxLingering {
		h.idle.Add(-1)
		return false
	}
	c.l.closers[c] = struct{}{}
	return true
}

// maxLingering is how many connections may wait at once for their peers' FIN.
const maxLingering = 1024

// forget drops a connection that is closed.
func (h *Host) forget(c *conn) {
	if _, ok := c.l.closers[c]; ok {
		delete(c.l.closers, c)
		h.idle.Add(-1)
	}
	if c.id != 0 {
		h.mu.Lock()
		delete(h.waiting, c.id)
		h.mu.Unlock()
	}
}

// wait has c.writable called when the kernel takes bytes again.
func (h *Host) wait(c *conn) {
	if c.id == 0 {
		h.mu.Lock()
		for h.lastID++; h.lastID == 0 || h.waiting[h.lastID] != nil; h.lastID++ {
		}
		c.id = h.lastID
		h.waiting[c.id] = c
		h.mu.Unlock()
	}
	_ = c.Conn.NotifyWritable(uint64(c.id))
}

// Writable tells who waits. A session's ID has a round, which is never 0, in its upper half.
func (h *Host) Writable(id uint64) {
	if id>>32 != 0 {
		h.host.Writable(id)
		return
	}
	h.mu.Lock()
	c := h.waiting[uint32(id)]
	h.mu.Unlock()
	if c != nil {
		c.l.post(c, (*conn).writable)
	}
}

func (h *Host) AcceptFailed()    { h.host.AcceptFailed() }
func (h *Host) Failed(err error) { h.host.Failed(err) }

// shedAfter is how long a handshake may wait for its client where others want its place.
const shedAfter = 250 * time.Millisecond

// squeeze notes a new handshake, and closes those that have waited longest for their clients
// where there are too many.
func (h *Host) squeeze(c *conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.shakes[c] = c.tls.shake
	h.shedLocked()
}

func (h *Host) shedLocked() {
	over := len(h.shakes) - h.cfg.MaxHandshakes
	if over <= 0 || h.again != nil || h.stopped {
		return
	}
	type waiter struct {
		c     *conn
		since time.Time
	}
	var list []waiter
	for c, sh := range h.shakes {
		if since := sh.waiting(); !since.IsZero() {
			list = append(list, waiter{c, since})
		}
	}
	slices.SortFunc(list, func(a, b waiter) int { return cmp.Compare(a.since.UnixNano(), b.since.UnixNano()) })
	next := shedAfter
	for _, w := range list[:min(over, len(list))] {
		if age := time.Since(w.since); age < shedAfter {
			next = shedAfter - age
			break
		}
		delete(h.shakes, w.c)
		over--
		h.st.shed.Add(1)
		h.places.noteShed()
		w.c.l.post(w.c, func(c *conn) {
			if c.phase == handshake {
				c.kill()
			}
		})
	}
	if over > 0 {
		h.again = time.AfterFunc(max(next, 10*time.Millisecond), func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.again = nil
			h.shedLocked()
		})
	}
}

// leaveShakes takes a connection off the open handshakes.
func (h *Host) leaveShakes(c *conn) {
	if c.tls == nil || c.tls.left {
		return
	}
	c.tls.left = true
	h.st.handshaking.Add(-1)
	h.mu.Lock()
	delete(h.shakes, c)
	h.mu.Unlock()
}

// truncated notes a TLS stream that ended without its close_notify.
func (h *Host) truncated(c *conn) {
	h.st.truncated.Add(1)
	now := time.Now().Unix()
	if last := h.st.toldAt.Load(); last != now && h.st.toldAt.CompareAndSwap(last, now) {
		h.cfg.Logger.Info("TLS stream truncated: a FIN without close_notify", "peer", c.remote.String(), "total", h.st.truncated.Load())
	}
}

// Stop ends the network below, and with it every handshake.
func (h *Host) Stop(ctx context.Context) error {
	h.mu.Lock()
	h.stopped = true
	if h.again != nil {
		h.again.Stop()
	}
	h.mu.Unlock()
	err := h.Below.Stop(ctx)
	if err == nil {
		h.bg.Wait()
	}
	return err
}

// counters are what Stats tells.
type counters struct {
	front, handshaking                          atomic.Int64
	handshakes, handshakeFails, truncated, shed atomic.Uint64
	webSockets, upgrades, proxies, late         atomic.Uint64
	toldAt                                      atomic.Int64 // the second of the last log line
}

// Stats is a snapshot of the doors. Counters only grow.
type Stats struct {
	Opening     int    // connections in front of a session: their header, handshake or upgrade is under way
	Handshaking int    // of them TLS handshakes
	Closing     int    // connections without a session that wait for their peer's FIN
	Handshakes  uint64 // TLS handshakes done
	WebSockets  uint64 // upgrades done
	Truncated   uint64 // TLS streams that ended without a close_notify

	BadHandshakes uint64 // refused: TLS handshakes that failed
	Shed          uint64 // handshakes closed for MaxHandshakes
	BadUpgrades   uint64 // requests that did not become WebSocket
	BadProxies    uint64 // no PROXY header, or a broken one, from who must send it
	Late          uint64 // not through in time
}

// Stats returns a snapshot. Any goroutine.
func (h *Host) Stats() Stats {
	c := &h.st
	return Stats{
		Opening: int(c.front.Load()), Handshaking: int(c.handshaking.Load()), Closing: int(h.idle.Load()),
		Handshakes: c.handshakes.Load(), WebSockets: c.webSockets.Load(), Truncated: c.truncated.Load(),
		BadHandshakes: c.handshakeFails.Load(), Shed: c.shed.Load(), BadUpgrades: c.upgrades.Load(), BadProxies: c.proxies.Load(), Late: c.late.Load(),
	}
}
