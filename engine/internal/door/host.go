package door

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"millrace/engine/internal/budget"
	"millrace/engine/internal/netio"
)

// Config configures a Host. There are no defaults.
type Config struct {
	Addrs []string // as ParseAddr takes them

	TLS              *tls.Config   // nil if no address needs TLS; it must not be changed any more
	HandshakeTimeout time.Duration // of a TLS handshake
	MaxHandshakes    int           // limit of TLS handshakes with input to process, and of open ones
	HandshakeRate    int           // TLS handshakes of one address in a second; 0: no limit
	IPv6Prefix       int           // bits of an IPv6 address that count as the address; 0: perip.DefaultBits
	FrameTimeout     time.Duration // for an incomplete TLS record or WebSocket header; 0: none
	FirstTimeout     time.Duration // from accept until all layers are passed; 0: none
	Linger           time.Duration // how long a closing connection waits for the peer's FIN

	Proxies      Sources                   // peers that must send a PROXY header
	ForwardedFor Sources                   // peers whose X-Forwarded-For is trusted
	Origins      []string                  // allowed Origins besides the server's own; "*" allows all
	Deflate      bool                      // WebSocket messages may be compressed
	MaxRatio     int                       // most bytes that one byte of a client's compressed messages may inflate to, on average over a connection; 0: no limit
	OnUpgrade    func(*http.Request) error // called for each upgrade request, on its loop's goroutine; may be nil

	// Frames returns how many bytes at the start of b, which a session sends, are whole frames,
	// and the length of the frame after them; 0 if that is not known yet. The Sink is nil while a
	// connection is being accepted, and if it was refused.
	Frames func(conn netio.Conn, k netio.Sink, b []byte) (whole, next int)
	// Framing returns a comparable value: for connections with equal values, Frames returns the same
	// for the same bytes.
	Framing  func(conn netio.Conn, k netio.Sink) any
	Draining func() bool
	// Stalled is called when a peer has sent nothing more for FrameTimeout of something incomplete.
	// False: the session's timeouts are suspended, so this one starts again.
	Stalled func(netio.Sink) bool
	// Short reports whether a connection on descriptor fd must be refused at once, because few
	// descriptors are free or too many connections come.
	Short      func(fd int) bool
	MaxOpening func() int // limit of connections without a session yet
	Shed       func()     // called when one was closed or refused because of MaxOpening
	Budget     *budget.Budget
	Logger     *slog.Logger
}

// Below is the network that connections come from.
type Below interface {
	Start(ctx context.Context) error
	Addrs() []net.Addr
	Guard()
	Stop(ctx context.Context) error
	// Listener returns the index of the address that accepted a connection with local address a;
	// below 0 if that is not known.
	Listener(a net.Addr) int
}

// Host is the netio.Host of a network, and passes connections to another netio.Host, the engine's,
// after they have passed their layers.
type Host struct {
	Below
	cfg   Config
	host  netio.Host
	addrs []Addr
	st    counters

	shakes    *handshakes
	inflaters sync.Pool // *inflater
	bg        sync.WaitGroup
	epoch     time.Time
	idle      atomic.Int64 // connections that only wait for their peers' FIN

	mu      sync.Mutex
	waiting map[uint32]*conn // guarded by mu; by conn.id
	lastID  uint32           // guarded by mu
	loops   []*loop          // guarded by mu
}

var _ netio.Host = (*Host)(nil)

// New makes a Host that passes connections to host, and calls listen to make the network below it, with
// the addresses to listen on.
func New(cfg Config, host netio.Host, listen func(sockets []string, h netio.Host) Below) (*Host, error) {
	h := &Host{cfg: cfg, host: host, waiting: map[uint32]*conn{}, epoch: time.Now()}
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
	h.shakes = newHandshakes(h)
	if h.cfg.TLS != nil {
		h.asks()
	}
	h.inflaters.New = func() any { return newInflater() }
	h.Below = listen(sockets, h)
	return h, nil
}

// URLs returns the bound addresses, as ParseAddr takes them.
func (h *Host) URLs() []string {
	var urls []string
	for i, a := range h.Below.Addrs() {
		urls = append(urls, h.addrs[i].URL(a))
	}
	return urls
}

// now is nanoseconds since the Host was made, at least 1.
func (h *Host) now() int64 { return int64(time.Since(h.epoch)) + 1 }

// NewLoop makes a loop of the Host's.
func (h *Host) NewLoop(x netio.Loop) netio.Turner {
	l := &loop{Loop: x, h: h, opening: map[*conn]struct{}{}, closers: map[*conn]struct{}{}, halves: map[*conn]half{}, frameTimeout: h.cfg.FrameTimeout}
	l.turner = h.host.NewLoop(l)
	h.mu.Lock()
	h.loops = append(h.loops, l)
	h.mu.Unlock()
	return l
}

// Open implements netio.Host. A connection without layers is passed to the engine's Host at once.
func (h *Host) Open(t netio.Turner, x netio.Conn, fd int) (netio.Sink, netio.Refusal) {
	l := t.(*loop)
	i := h.Listener(x.LocalAddr())
	proxied := !h.cfg.Proxies.None() && h.cfg.Proxies.Has(x.RemoteAddr())
	if i < 0 || !h.addrs[i].layered() && !proxied {
		return h.host.Open(l.turner, x, fd)
	}
	if h.cfg.Short(fd) { // who may not come takes nobody's place
		return nil, netio.Refusal{AtOnce: true}
	}
	if !l.roomForOpening() {
		h.cfg.Shed()
		return nil, netio.Refusal{AtOnce: true}
	}
	c := &conn{Conn: x, l: l}
	a := &h.addrs[i]
	c.more().opening = opening{addr: a, fd: fd, since: time.Now()}
	l.opening[c] = struct{}{}
	c.queue()
	h.st.front.Add(1)
	c.startClock()
	switch {
	case proxied:
	case a.Auto:
		c.phase = firstByte
	case a.TLS:
		c.beginTLS()
	default:
		c.phase = innerByte
	}
	return c, netio.Refusal{}
}

// startClock sets the deadline of a connection without a session.
func (c *conn) startClock() {
	o, h := &c.x.opening, c.l.h
	left := time.Duration(-1)
	if d := h.cfg.FirstTimeout; d > 0 {
		left = max(d-time.Since(o.since), 0)
	}
	if c.phase == handshake && (left < 0 || left > h.cfg.HandshakeTimeout) {
		left = h.cfg.HandshakeTimeout
	}
	if o.deadline = 0; left >= 0 {
		o.deadline = h.now() + int64(left)
		c.l.setAlarm(o.deadline)
	}
}

// alarmStep is how long the openings are left alone after a look at them: a flood of them
// would have all looked at for each.
const alarmStep = 20 * time.Millisecond

// lateMost is how many are ended in one look.
const lateMost = 64

// setAlarm has the openings looked at, at a time in nanoseconds of Host.now.
func (l *loop) setAlarm(at int64) {
	if l.alarmAt != 0 && l.alarmAt <= at {
		return
	}
	l.alarmAt = at
	wait := time.Duration(max(at-l.h.now(), 0))
	if l.alarm != nil {
		l.alarm.Reset(wait)
		return
	}
	l.alarm = time.AfterFunc(wait, func() {
		l.mu.Lock()
		l.late = true
		l.some.Store(true)
		l.mu.Unlock()
		_ = l.Loop.Execute() // it fails only where the loops have ended
	})
}

// expireOpenings ends the connections that did not become sessions in time, those first that
// have been silent longest. Loop goroutine.
func (l *loop) expireOpenings() {
	now, next := l.h.now(), int64(0)
	l.alarmAt = 0
	ended := 0
	for e := l.silent.Front(); e != nil; {
		c := e.Value.(*conn)
		e = e.Next() // c may leave the list
		switch at := c.x.deadline; {
		case at == 0:
		case at <= now && ended < lateMost:
			ended++
			c.x.deadline = 0 // once is enough, even if it must wait
			c.do((*conn).late)
		case next == 0 || at < next:
			next = at
		}
	}
	if next != 0 {
		l.setAlarm(max(next, now+int64(alarmStep)))
	}
}

// late ends a connection that did not become a session in time.
func (c *conn) late() {
	if c.phase < open {
		c.l.h.st.late.Add(1)
		c.kill()
	}
}

// passed takes a connection off those in front of a session.
func (h *Host) passed(c *conn) {
	if _, ok := c.l.opening[c]; ok {
		delete(c.l.opening, c)
		c.unqueue()
		h.st.front.Add(-1)
	}
	h.shakes.leave(c)
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
	c.l.forgetHalf(c)
	if _, ok := c.l.closers[c]; ok {
		delete(c.l.closers, c)
		h.idle.Add(-1)
	}
	if c.x != nil && c.x.id != 0 {
		h.mu.Lock()
		delete(h.waiting, c.x.id)
		h.mu.Unlock()
	}
}

// wait has c.writable called when the kernel takes bytes again.
func (h *Host) wait(c *conn) {
	x := c.more()
	if x.id == 0 {
		h.mu.Lock()
		for h.lastID++; h.lastID == 0 || h.waiting[h.lastID] != nil; h.lastID++ {
		}
		x.id = h.lastID
		h.waiting[x.id] = c
		h.mu.Unlock()
	}
	_ = c.Conn.NotifyWritable(uint64(x.id))
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

// truncated notes a TLS stream that ended without its close_notify.
func (h *Host) truncated(c *conn) {
	h.st.truncated.Add(1)
	now := time.Now().Unix()
	if last := h.st.toldAt.Load(); last != now && h.st.toldAt.CompareAndSwap(last, now) {
		h.cfg.Logger.Info("TLS stream truncated: a FIN without close_notify", "peer", c.RemoteAddr().String(), "total", h.st.truncated.Load())
	}
}

// Stop ends the network below, and with it every handshake.
func (h *Host) Stop(ctx context.Context) error {
	h.shakes.stop()
	err := h.Below.Stop(ctx)
	if err == nil {
		h.endDetached()
		h.bg.Wait()
	}
	return err
}

// endDetached closes the sockets that are the layers' own, which no loop knows of any more. The loops have ended.
func (h *Host) endDetached() {
	h.mu.Lock()
	loops := h.loops
	h.mu.Unlock()
	for _, l := range loops {
		for _, some := range []map[*conn]struct{}{l.opening, l.closers} {
			for c := range some {
				c.kill()
			}
		}
	}
}
