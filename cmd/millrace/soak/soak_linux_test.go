package soak

import (
	"fmt"
	"math/rand/v2"
	"net/url"
	"sync"
	"testing"
	"time"

	"millrace/dbasync/pgembed"
	"millrace/internal/faultproxy"
)

// soak is one run.
type soak struct {
	testing.TB
	length  time.Duration
	seed    uint64
	began   time.Time
	at      where
	gate    *gate
	clients sync.WaitGroup
	tallies []*tally

	db      *pgembed.Server
	dbProxy *faultproxy.Proxy // between the server and it
	dbURL   string            // through the proxy
	proxies []*faultproxy.Proxy
	crowd   crowd

	warmUse, endUse usage // of the last life, when no client is there

	mu         sync.Mutex
	lives      []*server          // guarded by mu; the last one is the one that runs
	rows       []*row             // guarded by mu
	keys       map[string]keyBook // guarded by mu
	struck     map[string]int     // guarded by mu
	samples    []usage            // guarded by mu
	checks     []check            // guarded by mu
	violations map[string]uint64  // guarded by mu
	told       int                // guarded by mu
}

func newSoak(t *testing.T) *soak {
	s := &soak{
		TB: t, length: *length, seed: *seed, at: newPlaces(t), gate: newGate(), crowd: crowd{addrs: map[string]bool{}},
		keys: map[string]keyBook{}, struck: map[string]int{}, violations: map[string]uint64{},
	}
	if s.seed == 0 {
		s.seed = uint64(time.Now().UnixNano() % 1e9)
	}
	s.db = pgembed.ForTest(t, pgembed.Config{TCP: true})
	u, err := url.Parse(s.db.URL())
	if err != nil {
		t.Fatal(err)
	}
	s.dbProxy = faultproxy.New(t, u.Host)
	u.Host = s.dbProxy.Addr()
	s.dbURL = u.String()
	if _, err := s.writeCertificate(); err != nil {
		t.Fatal(err)
	}
	return s
}

// server is the one that runs, or ran last.
func (s *soak) server() *server {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lives[len(s.lives)-1]
}

// next starts the server, again at the same addresses.
func (s *soak) next() *server {
	s.Helper()
	v := s.launch()
	v.began = time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lives = append(s.lives, v)
	return v
}

// over notes how a server's life ended.
func (v *server) over(how string) { v.lived, v.how = time.Since(v.began), how }

// The server through everything at once, for as long as -soak says.
func TestSoak(t *testing.T) {
	s := newSoak(t)
	t.Logf("seed %d", s.seed)
	r := rand.New(rand.NewPCG(s.seed, 0))
	v := s.next()
	s.began = time.Now()
	s.population()
	s.gate.open()

	s.strike(v, time.Now().Add(s.length/8), r)
	v.kill()
	v.over("kill -9")

	v = s.next()
	s.strike(v, time.Now().Add(s.length/8), r)
	code, err := v.term()
	v.over("SIGTERM under load")
	s.check("a drain under load", err == nil && (code == 0 || code == 3), fmt.Sprintf("exit code %d %v", code, err))

	v = s.next()
	s.lastLife(v, r)
	code, err = v.term()
	v.over("SIGTERM without clients")
	s.check("a drain without clients", err == nil && code == 0, fmt.Sprintf("exit code %d %v", code, err))

	s.gate.end()
	s.clients.Wait()
	s.checkRows()
	s.checkLogs()
	s.checkBooks()
	all := s.report()
	t.Logf("\n%v", all)
	if *output != "" {
		if err := all.write(*output); err != nil {
			t.Error(err)
		}
	}
}

// lastLife is the long one: warm, and once more with everything that can happen to it, it holds
// the same when its clients have gone.
func (s *soak) lastLife(v *server, r *rand.Rand) {
	long := s.length * 3 / 4
	stop := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() { s.watch(v, stop) })
	s.strike(v, time.Now().Add(long/4), r)
	s.warmUse = s.empty(v, func(usage) bool { return true })
	s.gate.open()
	s.strike(v, time.Now().Add(long*3/4), r)
	s.endUse = s.empty(v, func(u usage) bool {
		return u.Goroutines <= s.warmUse.Goroutines+goroutineSlack && u.Files <= s.warmUse.Files+fileSlack && u.Heap <= s.warmUse.Heap+heapSlack(s.warmUse)
	})
	close(stop)
	watching.Wait()
	s.checkKey(v)
	s.check("sessions at the end", s.warmUse.Sessions == 0 && s.endUse.Sessions == 0, fmt.Sprint(s.warmUse.Sessions, " warm, ", s.endUse.Sessions, " at the end"))
	s.check("heap at the end", s.endUse.Heap <= s.warmUse.Heap+heapSlack(s.warmUse), fmt.Sprintf("%s, %s when it was warm", mib(s.endUse.Heap), mib(s.warmUse.Heap)))
	s.check("goroutines at the end", s.endUse.Goroutines <= s.warmUse.Goroutines+goroutineSlack, fmt.Sprintf("%d, %d when it was warm", s.endUse.Goroutines, s.warmUse.Goroutines))
	s.check("files at the end", s.endUse.Files <= s.warmUse.Files+fileSlack, fmt.Sprintf("%d, %d when it was warm", s.endUse.Files, s.warmUse.Files))
	s.check("peak of memory", s.endUse.Peak <= peakAllowed, fmt.Sprintf("%s, %s allowed for a budget of %s", mib(s.endUse.Peak), mib(peakAllowed), mib(budget)))
}

const (
	// goroutineSlack is for those that come and go: connections to the database, and its slow lane.
	goroutineSlack = 8
	// fileSlack is for connections to the database that were just being made: it has four lanes, and as many
	// for slow statements.
	fileSlack = 8
	// peakAllowed is what serve keeps near: five quarters of the budget and what is not counted in it, and the
	// program's own pages.
	peakAllowed = budget*5/4 + 60<<20
)

// heapSlack is what the heap may have grown by: tables and pools that the largest crowd so far has
// made larger.
func heapSlack(warm usage) int { return warm.Heap/10 + 3<<20 }

// empty has all clients leave, and waits until the server has let go of them.
func (s *soak) empty(v *server, ok func(usage) bool) usage {
	s.Helper()
	if !s.gate.close(2 * patience) {
		s.Fatalf("clients that do not come to an end; the server's log ends: %.4000s", v.log.String())
	}
	return s.quiet(v, patience/2, func(u usage) bool { return u.Sessions == 0 && ok(u) })
}

// checkLogs wants no crash in any life's log, and no flood.
func (s *soak) checkLogs() {
	for _, v := range s.lives {
		lines, _, crash := v.log.counts()
		s.check(fmt.Sprintf("log of life %d", v.n), crash == "" && float64(lines) < 200+20*v.lived.Seconds(), fmt.Sprintf("%d lines %s", lines, crash))
	}
}

// checkBooks wants that every kind of client was served, that each request has an outcome, and that
// nothing forbidden was seen.
func (s *soak) checkBooks() {
	var requests, answers, refused, unknown, resumed uint64
	for _, t := range s.tallies {
		if t.visits.Load() == 0 || t.requests.Load() > 0 && t.answers.Load() == 0 {
			s.check(t.name, false, "was never served")
		}
		requests, answers, unknown = requests+t.requests.Load(), answers+t.answers.Load(), unknown+t.unknown.Load()
		resumed += t.resumed.Load()
		for _, n := range t.refused {
			refused += n
		}
	}
	s.check("outcomes", answers > 0 && requests == answers+refused+unknown, fmt.Sprintf("%d requests: %d answered, %d refused, %d unknown", requests, answers, refused, unknown))
	if cuts := s.struck["clients cut off"]; cuts >= 3 { // fewer may have hit nobody
		s.check("sessions that were resumed", resumed > 0, fmt.Sprintf("%d, by clients that were cut off %d times", resumed, cuts))
	}
	for _, f := range faults {
		if s.struck[f.name] == 0 {
			s.Logf("there was no time for: %s", f.name)
		}
	}
	s.check("violations", len(s.violations) == 0, fmt.Sprint(s.told))
}
