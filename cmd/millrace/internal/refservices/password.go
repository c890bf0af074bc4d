package refservices

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"runtime"
	"strings"
	"time"

	"golang.org/x/crypto/argon2"
)

var ctxBackground = context.Background()

// Cost of a password's hash: 19 MiB, two passes, one lane (the least that OWASP
// recommends for argon2id).
const (
	argonMemory  = 19 << 10 // KiB
	argonPasses  = 2
	argonLanes   = 1
	argonLength  = 32 // bytes
	argonSalt    = 16 // bytes
	argonFormat  = "$argon2id$v=19$m=%d,t=%d,p=%d$%s$%s"
	maxHashing   = 1024 // that wait; the next one blocks its worker, which pushes back
	tokenLife    = 24 * time.Hour
	tokenMACSize = 16
)

// nobody is a hash that no password has, of the same cost.
var nobody = fmt.Sprintf(argonFormat, argonMemory, argonPasses, argonLanes,
	encode(make([]byte, argonSalt)), encode(make([]byte, argonLength)))

func encode(b []byte) string { return base64.RawStdEncoding.EncodeToString(b) }

// hashPassword returns the password's hash in the PHC string format.
func hashPassword(password string) string {
	salt := make([]byte, argonSalt)
	_, _ = rand.Read(salt) // never fails
	sum := argon2.IDKey([]byte(password), salt, argonPasses, argonMemory, argonLanes, argonLength)
	return fmt.Sprintf(argonFormat, argonMemory, argonPasses, argonLanes, encode(salt), encode(sum))
}

// checkPassword says whether the password has that hash, with the costs that
// the hash names.
func checkPassword(hash, password string) bool {
	var memory, passes uint32
	var lanes uint8
	part := strings.Split(hash, "$") // "", argon2id, v, costs, salt, sum
	if len(part) != 6 {
		return false
	}
	if _, err := fmt.Sscanf(part[3], "m=%d,t=%d,p=%d", &memory, &passes, &lanes); err != nil || passes == 0 || lanes == 0 {
		return false
	}
	salt, err1 := base64.RawStdEncoding.DecodeString(part[4])
	want, err2 := base64.RawStdEncoding.DecodeString(part[5])
	if err1 != nil || err2 != nil || len(want) == 0 {
		return false
	}
	sum := argon2.IDKey([]byte(password), salt, passes, memory, lanes, uint32(len(want)))
	return subtle.ConstantTimeCompare(sum, want) == 1
}

// hasher runs as many functions at once as there are CPUs that this process may use: each takes 19 MiB.
type hasher struct {
	room chan struct{} // one for each that waits or runs
	cpus chan struct{} // one for each that runs
}

func newHasher() *hasher {
	n := runtime.GOMAXPROCS(0)
	return &hasher{room: make(chan struct{}, maxHashing+n), cpus: make(chan struct{}, n)}
}

// enter takes a place. It blocks while maxHashing wait already. run or leave
// gives the place back.
func (h *hasher) enter() { h.room <- struct{}{} }

func (h *hasher) leave() { <-h.room }

// run runs fn on a goroutine of its own when it is its turn.
func (h *hasher) run(fn func()) {
	go func() {
		defer h.leave()
		h.cpus <- struct{}{}
		defer func() { <-h.cpus }()
		fn()
	}()
}

// tokens makes login tokens that say by themselves who they are for and until
// when: nothing is kept, and they end with the process.
type tokens struct{ key [32]byte }

func newTokens() *tokens {
	t := &tokens{}
	_, _ = rand.Read(t.key[:]) // never fails
	return t
}

func (t *tokens) make(user int64) string { return t.at(user, time.Now().Add(tokenLife)) }

func (t *tokens) at(user int64, until time.Time) string {
	b := binary.BigEndian.AppendUint64(nil, uint64(user))
	b = binary.BigEndian.AppendUint64(b, uint64(until.Unix()))
	return base64.RawURLEncoding.EncodeToString(append(b, t.mac(b)...))
}

func (t *tokens) mac(b []byte) []byte {
	m := hmac.New(sha256.New, t.key[:])
	m.Write(b)
	return m.Sum(nil)[:tokenMACSize]
}

// check returns whose token it is, while it is valid.
func (t *tokens) check(token string) (user int64, ok bool) {
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(b) != 16+tokenMACSize || !hmac.Equal(b[16:], t.mac(b[:16])) {
		return 0, false
	}
	until := time.Unix(int64(binary.BigEndian.Uint64(b[8:])), 0)
	return int64(binary.BigEndian.Uint64(b)), time.Now().Before(until)
}

// User says whose login token it is, while it is valid.
func (x *Services) User(token string) (id int64, ok bool) { return x.tokens.check(token) }
