package refservices

import (
	"crypto/rand"
	"crypto/sha256"
	"runtime"
	"sync"

	"github.com/alexedwards/argon2id"

	"millrace/engine"
	"millrace/services"
)

// cost of a password hash: 19 MiB, two passes, one lane (the minimum that OWASP recommends for
// argon2id).
var cost = &argon2id.Params{Memory: 19 << 10, Iterations: 2, Parallelism: 1, SaltLength: 16, KeyLength: 32}

// nobody returns a hash of the same cost that matches no known password.
var nobody = sync.OnceValue(func() string {
	hash, err := argon2id.CreateHash(rand.Text(), cost)
	if err != nil {
		panic("refservices: " + err.Error()) // the parameters are constant
	}
	return hash
})

// newToken returns a login token of 130 random bits, and the hash of it to store.
func newToken() (token string, stored []byte) {
	token = rand.Text()
	return token, hashToken(token)
}

// hashToken uses no salt and no cost parameter: a token can't be guessed.
func hashToken(token string) []byte {
	sum := sha256.Sum256([]byte(token))
	return sum[:]
}

// hasher runs at most as many functions at the same time as there are CPUs that this process may
// use, as each takes 19 MiB. Waiting sessions take turns, so a session with thousands of logins
// delays another session's login by no more than a hash or two.
type hasher struct {
	mu    sync.Mutex
	free  int                         // guarded by mu; how many more may run
	lines map[*engine.Session]*hashes // guarded by mu; sessions with waiting functions
	turns []*hashes                   // guarded by mu; the same, in round-robin order
}

// hashes are the waiting functions of a session, at most maxHashes.
type hashes struct {
	s       *engine.Session
	waiting []func() // guarded by hasher.mu
}

func newHasher() *hasher {
	return &hasher{free: runtime.GOMAXPROCS(0), lines: map[*engine.Session]*hashes{}}
}

var errHashes = services.Errorf(engine.CodeLimit, "too many passwords are waiting to be hashed")

// run runs fn on a goroutine of its own when it is the session's turn, but not if the session has
// closed by then. It returns an error if too many functions of the session are waiting.
func (h *hasher) run(s *engine.Session, fn func()) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := h.lines[s]
	if l == nil {
		l = &hashes{s: s}
		h.lines[s] = l
		h.turns = append(h.turns, l)
	}
	if len(l.waiting) >= maxHashes {
		return errHashes
	}
	l.waiting = append(l.waiting, fn)
	if h.free > 0 {
		h.free--
		go h.work()
	}
	return nil
}

// work runs waiting functions, one of each session in turn, until there are none.
func (h *hasher) work() {
	for {
		h.mu.Lock()
		if len(h.turns) == 0 {
			h.free++
			h.mu.Unlock()
			return
		}
		l := h.turns[0]
		h.turns = h.turns[1:]
		fn := l.waiting[0]
		l.waiting[0] = nil
		if l.waiting = l.waiting[1:]; len(l.waiting) > 0 {
			h.turns = append(h.turns, l)
		} else {
			delete(h.lines, l.s)
		}
		h.mu.Unlock()
		if l.s.Connected() {
			fn()
		}
	}
}
