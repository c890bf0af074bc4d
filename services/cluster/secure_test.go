package cluster_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"

	"millrace/services"
	"millrace/services/cluster"
)

// natsServer starts a server with these options, and returns its address.
func natsServer(t *testing.T, change func(*server.Options)) string {
	t.Helper()
	return runServer(t, change).Addr().String()
}

func runServer(t *testing.T, change func(*server.Options)) *server.Server {
	t.Helper()
	o := &server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true, JetStream: true, StoreDir: t.TempDir()}
	change(o)
	srv, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(func() {
		srv.Shutdown()
		srv.WaitForShutdown()
	})
	if !srv.ReadyForConnections(within) {
		t.Fatal("no server")
	}
	return srv
}

// written is a file of that text.
func written(t *testing.T, text []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// operator are an operator and an account, and credentials of one of its users.
func operator(t *testing.T) (change func(*server.Options), creds string) {
	t.Helper()
	op, system, account, user := must(nkeys.CreateOperator()), must(nkeys.CreateAccount()), must(nkeys.CreateAccount()), must(nkeys.CreateUser())
	public := func(k nkeys.KeyPair) string { return must(k.PublicKey()) }
	oc := jwt.NewOperatorClaims(public(op))
	oc.SystemAccount = public(system)
	ac := jwt.NewAccountClaims(public(account))
	ac.Limits.JetStreamLimits = jwt.JetStreamLimits{DiskStorage: -1, MemoryStorage: -1, Streams: -1, Consumer: -1}
	text, resolver := must(oc.Encode(op)), &server.MemAccResolver{}
	if err := errors.Join(resolver.Store(public(account), must(ac.Encode(op))),
		resolver.Store(public(system), must(jwt.NewAccountClaims(public(system)).Encode(op)))); err != nil {
		t.Fatal(err)
	}
	uc := jwt.NewUserClaims(public(user))
	creds = written(t, must(jwt.FormatUserConfig(must(uc.Encode(account)), must(user.Seed()))))
	claims := must(jwt.DecodeOperatorClaims(text))
	return func(o *server.Options) {
		o.TrustedOperators, o.AccountResolver, o.SystemAccount = []*jwt.OperatorClaims{claims}, resolver, oc.SystemAccount
	}, creds
}

// authority signs certificates.
type authority struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	file string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t}
	a.file, _, a.key = a.sign("ca")
	block, _ := pem.Decode(must(os.ReadFile(a.file)))
	a.cert = must(x509.ParseCertificate(block.Bytes))
	return a
}

// sign makes the files of a certificate and its key; the first one is the authority's own.
func (a *authority) sign(name string) (cert, key string, k *ecdsa.PrivateKey) {
	a.t.Helper()
	k = must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	c := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	parent, by := a.cert, a.key
	if parent == nil {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
		parent, by = c, k
	}
	der := must(x509.CreateCertificate(rand.Reader, c, parent, &k.PublicKey, by))
	cert = written(a.t, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	key = written(a.t, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(k))}))
	return cert, key, k
}

// serves has a server show a certificate, and ask clients for one of the authority's.
func (a *authority) serves(ask bool) func(*server.Options) {
	cert, key, _ := a.sign("server")
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	cfg := &tls.Config{Certificates: []tls.Certificate{must(tls.LoadX509KeyPair(cert, key))}, ClientCAs: pool, MinVersion: tls.VersionTLS12}
	if ask {
		cfg.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return func(o *server.Options) { o.TLS, o.TLSVerify, o.TLSConfig, o.TLSTimeout = true, ask, cfg, 10 }
}

// Real servers take who shows what they ask for, and whoever they refuse, or can't be sure
// of, is told why: not that they are away.
func TestServersAreShownWhoAsks(t *testing.T) {
	asks, creds := operator(t)
	_, foreign := operator(t)
	jwtServer := natsServer(t, asks)
	user, stranger := must(nkeys.CreateUser()), must(nkeys.CreateUser())
	nkeyServer := natsServer(t, func(o *server.Options) { o.Nkeys = []*server.NkeyUser{{Nkey: must(user.PublicKey())}} })
	seed, other := written(t, must(user.Seed())), written(t, must(stranger.Seed()))
	ca, elsewhere := newAuthority(t), newAuthority(t)
	tlsServer, mutual := natsServer(t, ca.serves(false)), natsServer(t, ca.serves(true))
	cert, key, _ := ca.sign("client")
	badCert, badKey, _ := elsewhere.sign("client")
	token := natsServer(t, func(o *server.Options) { o.Authorization = "sesame" })
	poor := natsServer(t, func(o *server.Options) {
		o.Users = []*server.User{{Username: "ann", Password: "pw", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Allow: []string{"x"}}}}}
	})
	for _, x := range []struct {
		name string
		cfg  cluster.Config
		want error
	}{
		{"credentials", cluster.Config{URL: "nats://" + jwtServer, Creds: creds}, nil},
		{"credentials of another operator", cluster.Config{URL: "nats://" + jwtServer, Creds: foreign}, cluster.ErrRefused},
		{"no credentials", cluster.Config{URL: "nats://" + jwtServer}, cluster.ErrRefused},
		{"a key", cluster.Config{URL: "nats://" + nkeyServer, NKey: seed}, nil},
		{"another's key", cluster.Config{URL: "nats://" + nkeyServer, NKey: other}, cluster.ErrRefused},
		{"no key", cluster.Config{URL: "nats://" + nkeyServer}, cluster.ErrRefused},
		{"a token", cluster.Config{URL: "nats://sesame@" + token}, nil},
		{"a wrong token", cluster.Config{URL: "nats://hush@" + token}, cluster.ErrRefused},
		{"a user who may do nothing", cluster.Config{URL: "nats://ann:pw@" + poor, Timeout: 500 * time.Millisecond}, cluster.ErrRefused},
		{"TLS", cluster.Config{URL: "nats://" + tlsServer, TLSCA: ca.file}, nil},
		{"TLS by its scheme", cluster.Config{URL: "tls://" + tlsServer, TLSCA: ca.file}, nil},
		{"TLS of another authority", cluster.Config{URL: "nats://" + tlsServer, TLSCA: elsewhere.file}, cluster.ErrCertificate},
		{"TLS of an authority that the system does not know", cluster.Config{URL: "nats://" + tlsServer}, cluster.ErrCertificate},
		{"no TLS there", cluster.Config{URL: "nats://sesame@" + token, TLSCA: ca.file}, cluster.ErrCertificate},
		{"a certificate of ours", cluster.Config{URL: "nats://" + mutual, TLSCA: ca.file, TLSCert: cert, TLSKey: key}, nil},
		{"another's certificate of ours", cluster.Config{URL: "nats://" + mutual, TLSCA: ca.file, TLSCert: badCert, TLSKey: badKey}, cluster.ErrCertificate},
		{"no certificate of ours", cluster.Config{URL: "nats://" + mutual, TLSCA: ca.file}, cluster.ErrCertificate},
	} {
		t.Run(x.name, func(t *testing.T) {
			x.cfg.Lease = steady
			c, err := cluster.New(x.cfg)
			if err != nil {
				t.Fatal(err)
			}
			err = c.Start(background)
			if !errors.Is(err, x.want) || x.want != nil && errors.Is(err, services.ErrCacheDown) {
				t.Fatalf("got %v, want %v", err, x.want)
			}
			if err != nil {
				if strings.Contains(err.Error(), "hush") || strings.Contains(err.Error(), "\n") {
					t.Errorf("not to be shown: %v", err)
				}
				return
			}
			bus := newBus(t, c)
			if !bus.Up() {
				t.Error("the bus is not up")
			}
			if _, err := c.Set(background, "k", []byte("v"), 0); err != nil {
				t.Error(err)
			}
			if err := errors.Join(bus.Stop(background), c.Stop(background)); err != nil {
				t.Error(err)
			}
		})
	}
}

func newBus(t *testing.T, c *cluster.Cache) *cluster.Bus {
	t.Helper()
	b, err := c.NewBus(cluster.BusConfig{})
	if err == nil {
		err = b.Start(background)
	}
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Files that are of no use are told by New, with their setting.
func TestFilesThatAreOfNoUseAreTold(t *testing.T) {
	ca := newAuthority(t)
	cert, key, _ := ca.sign("x")
	_, otherKey, _ := ca.sign("y")
	_, creds := operator(t)
	account := must(must(nkeys.CreateAccount()).Seed())
	garbage, none := written(t, []byte("hush hush")), filepath.Join(t.TempDir(), "none")
	seed := written(t, must(must(nkeys.CreateUser()).Seed()))
	for _, x := range []struct {
		cfg   cluster.Config
		field string
		why   string
	}{
		{cluster.Config{Creds: none}, "Creds", "no such file"},
		{cluster.Config{Creds: t.TempDir()}, "Creds", "regular file"},
		{cluster.Config{Creds: garbage}, "Creds", "no credentials"},
		{cluster.Config{Creds: seed}, "Creds", "no credentials"},
		{cluster.Config{NKey: garbage}, "NKey", "no seed"},
		{cluster.Config{NKey: written(t, account)}, "NKey", "no seed of a user"},
		{cluster.Config{NKey: seed, Creds: creds}, "NKey", "Creds are given too"},
		{cluster.Config{TLSCA: garbage}, "TLSCA", "no certificate"},
		{cluster.Config{TLSCA: key}, "TLSCA", "no certificate"},
		{cluster.Config{TLSCert: cert}, "TLSCert", "TLSKey"},
		{cluster.Config{TLSKey: key}, "TLSKey", "TLSCert"},
		{cluster.Config{TLSCert: cert, TLSKey: otherKey}, "TLSCert", "does not match"},
		{cluster.Config{TLSCert: cert, TLSKey: none}, "TLSKey", "no such file"},
		{cluster.Config{Replicas: 6}, "Replicas", "1 to 5"},
	} {
		x.cfg.URL = "nats://127.0.0.1:1"
		_, err := cluster.New(x.cfg)
		var c *cluster.ConfigError
		if !errors.As(err, &c) || c.Field != x.field || !strings.Contains(c.Why, x.why) || strings.Contains(err.Error(), "hush") {
			t.Errorf("%+v: got %v, want %s and %q", x.cfg, err, x.field, x.why)
		}
	}
}

// What servers can't do is told at the start.
func TestServersThatCanNotAreTold(t *testing.T) {
	bare := natsServer(t, func(o *server.Options) { o.JetStream = false })
	small := natsServer(t, func(o *server.Options) { o.MaxPayload = 64 << 10 })
	full := natsServer(t, func(o *server.Options) { o.JetStreamMaxStore = 1 << 20 })
	for _, x := range []struct {
		name, want string
		cfg        cluster.Config
	}{
		{"no JetStream", "JetStream is not enabled", cluster.Config{URL: "nats://" + bare, Timeout: 300 * time.Millisecond}},
		{"small messages", "max_payload", cluster.Config{URL: "nats://" + small}},
		{"no cluster", "Replicas 3: the servers don't hold so many copies", cluster.Config{URL: "nats://" + full, Replicas: 3}},
		{"no room", "a bucket of 268435456 bytes", cluster.Config{URL: "nats://" + full}},
	} {
		c, err := cluster.New(x.cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(background); !errors.Is(err, cluster.ErrServers) || errors.Is(err, services.ErrCacheDown) || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: got %v, want ErrServers and %q", x.name, err, x.want)
		}
	}
}

// A process whose token is refused for a while, as it is changed in one place after the
// other, comes back when it is taken again.
func TestATokenThatIsRefusedForAWhile(t *testing.T) {
	var own server.Options
	srv := runServer(t, func(o *server.Options) {
		o.Authorization = "sesame"
		own = *o.Clone()
	})
	own.Port = srv.Addr().(*net.TCPAddr).Port
	c := open(t, "nats://sesame@"+srv.Addr().String(), steady)
	bus := newBus(t, c)
	t.Cleanup(func() { _ = bus.Stop(background) })
	token := func(text string) {
		t.Helper()
		now := own.Clone()
		now.Authorization = text
		if err := srv.ReloadOptions(now); err != nil {
			t.Fatal(err)
		}
	}
	token("another")
	eventually(t, "it is off", func() bool { return !c.Running() && !bus.Up() })
	time.Sleep(time.Second) // some attempts, each of them refused
	token("sesame")
	eventually(t, "it is back", func() bool { return c.Running() && bus.Up() })
}
