package dbasync

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"millrace/dbasync/internal/pgfault"
	"millrace/dbasync/pgembed"
)

// sweep plays exchanges through proxies that do harm at one message of each play.
type sweep struct {
	t      *testing.T
	direct *pgxpool.Pool
	pooler string       // Config.PgBouncer
	next   atomic.Int64 // the base of the next play

	mu     sync.Mutex
	played []*play        // guarded by mu
	harm   map[string]int // faults by what was told wrong; guarded by mu
}

// post is where one play at a time runs: a way to the server with a proxy in it.
type post struct {
	proxy *pgfault.Proxy
	url   string // of the DB
}

const sweptTables = `
create table swept(id bigint, at bigserial);
create table seed(n bigint);
create table counted(k bigint primary key, v int);
create table deferred(id bigint unique deferrable initially deferred)`

func newSweep(t *testing.T, srv *pgembed.Server) *sweep {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(srv.URL())
	if err != nil {
		t.Fatal(err)
	}
	cfg.MaxConns = 8
	direct, err := pgxpool.NewWithConfig(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(direct.Close)
	admin(t, srv.URL(), "drop table if exists swept, seed, counted, deferred", sweptTables,
		fmt.Sprintf("insert into seed select generate_series(1, %d)", seedRows))
	return &sweep{t: t, direct: direct, harm: make(map[string]int)}
}

// atHost returns rawURL with another host.
func atHost(tb testing.TB, rawURL, host string) string {
	tb.Helper()
	u, err := url.Parse(rawURL)
	if err != nil {
		tb.Fatal(err)
	}
	u.Host = host
	return u.String()
}

func hostOf(tb testing.TB, rawURL string) string {
	tb.Helper()
	u, err := url.Parse(rawURL)
	if err != nil {
		tb.Fatal(err)
	}
	return u.Host
}

// newPost is a proxy before what rawURL names.
func newPost(t *testing.T, rawURL string) *post {
	t.Helper()
	p := pgfault.New(t, hostOf(t, rawURL))
	return &post{p, atHost(t, rawURL, p.Addr())}
}

// play plays ex once, with f armed, and holds what it was told against the rows.
func (s *sweep) play(at *post, ex exchange, f pgfault.Fault) *tally {
	p := &play{direct: s.direct, base: s.next.Add(maxRows)}
	p.last = p.base
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var c tally
	fail := func(err error) *tally {
		c.wrong = append(c.wrong, err.Error())
		return &c
	}
	if _, err := s.direct.Exec(ctx, "insert into counted values ($1, 0)", p.base); err != nil {
		return fail(err)
	}
	name := fmt.Sprintf("sweep%d", p.base)
	cfg := Config{URL: at.url + "&application_name=" + name, Lanes: 1, SlowConns: 1,
		MinBackoff: time.Millisecond, MaxBackoff: 4 * time.Millisecond, PgBouncer: s.pooler}
	if f.Act == pgfault.Stall { // else it is waited for as long as the defaults say
		cfg.StallTimeout, cfg.ConnectTimeout, cfg.SlowTimeout = 400*time.Millisecond, 600*time.Millisecond, 1500*time.Millisecond
	}
	if ex.change != nil {
		ex.change(&cfg)
	}
	db, err := New(cfg)
	if err != nil {
		return fail(err)
	}
	p.db = db
	at.proxy.Arm(f)
	if err := db.Start(ctx); err != nil {
		return fail(err)
	}
	for !db.Connected() && ctx.Err() == nil {
		time.Sleep(time.Millisecond) // what it says at first shall not depend on chance
	}
	ex.run(p)
	at.proxy.Heal() // what was held comes late, when callers have been told
	if err := db.Stop(ctx); err != nil {
		return fail(err)
	}
	if err := s.awaitEnd(ctx, name); err != nil {
		return fail(err)
	}
	present, order, err := s.rows(ctx, p.base)
	if err != nil {
		return fail(err)
	}
	c.compare(p, present, order)
	s.mu.Lock()
	s.played = append(s.played, p)
	s.mu.Unlock()
	return &c
}

// awaitEnd waits until the server is at nothing more that name has sent. A pooler keeps
// the connections.
func (s *sweep) awaitEnd(ctx context.Context, name string) error {
	sql := "select count(*) from pg_stat_activity where application_name = $1"
	if s.pooler != "" {
		sql += " and state <> 'idle'"
	}
	for {
		var n int
		if err := s.direct.QueryRow(ctx, sql, name).Scan(&n); err != nil {
			return err
		}
		if n == 0 {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
}

// rows returns how often each id of a play is there, and the order of their writing.
func (s *sweep) rows(ctx context.Context, base int64) (map[int64]int, []int64, error) {
	rows, err := s.direct.Query(ctx, "select id from swept where id > $1 and id <= $2 order by at", base, base+maxRows)
	if err != nil {
		return nil, nil, err
	}
	defer rows.Close()
	present := make(map[int64]int)
	var order []int64
	for rows.Next() {
		var id int64
		if err := rows.Scan(&id); err != nil {
			return nil, nil, err
		}
		present[id]++
		order = append(order, id)
	}
	return present, order, rows.Err()
}

// trial is one play to come.
type trial struct {
	ex    exchange
	fault pgfault.Fault
	at    pgfault.Message // as the unbroken play had it
}

// count plays ex unbroken and returns a trial for every message, place and act.
func (s *sweep) count(at *post, ex exchange, acts []pgfault.Act) (trials []trial, messages [2]int) {
	c := s.play(at, ex, pgfault.Fault{})
	if len(c.wrong) > 0 {
		s.t.Errorf("%s, unbroken: %s", ex.name, strings.Join(c.wrong, "\n"))
	}
	for _, dir := range []pgfault.Direction{pgfault.Up, pgfault.Down} {
		for i, m := range at.proxy.Messages(dir) {
			messages[dir]++
			if m.Type == pgfault.Unreadable {
				s.t.Errorf("%s, unbroken: %v %d can't be read", ex.name, dir, i)
			}
			if !ex.startup && ofStartup(m) {
				continue
			}
			for _, where := range []pgfault.Where{pgfault.Before, pgfault.Within, pgfault.After} {
				for _, act := range acts {
					f := pgfault.Fault{Dir: dir, Index: i, Where: where, Act: act, For: 20 * time.Millisecond}
					trials = append(trials, trial{ex, f, m})
				}
			}
		}
	}
	return trials, messages
}

// run plays trials on all posts at once until they are over, or the first of them (must)
// and the time, and returns what was told by exchange, with how many were played and how many of those found no such
// message.
func (s *sweep) run(posts []*post, trials []trial, must int, until time.Time) (sum map[string]*tally, plays, missed map[string]int) {
	s.t.Helper()
	sum, plays, missed = make(map[string]*tally), make(map[string]int), make(map[string]int)
	work := make(chan trial)
	var wg sync.WaitGroup
	for _, at := range posts {
		wg.Go(func() {
			for tr := range work {
				c := s.play(at, tr.ex, tr.fault)
				found, hit := at.proxy.Found()
				s.mu.Lock()
				if sum[tr.ex.name] == nil {
					sum[tr.ex.name] = &tally{}
				}
				plays[tr.ex.name]++
				if !hit {
					missed[tr.ex.name]++
				}
				for i := range c.told {
					sum[tr.ex.name].told[i] += c.told[i]
				}
				for _, why := range c.wrong {
					sum[tr.ex.name].wrong = append(sum[tr.ex.name].wrong, why)
					s.harm[fmt.Sprintf("%s: %v %v %v %v: %s", tr.ex.name, tr.fault.Act, tr.fault.Where, tr.fault.Dir, found, why)]++
				}
				s.mu.Unlock()
			}
		})
	}
	for i, tr := range trials {
		if i >= must && time.Now().After(until) {
			break
		}
		work <- tr
	}
	close(work)
	wg.Wait()
	return sum, plays, missed
}

// report logs what came of a run and fails for all that is wrong, the last word of the
// whole table included.
func (s *sweep) report(label string, sum map[string]*tally, plays, missed map[string]int) {
	s.t.Helper()
	var all tally
	total, gone := 0, 0
	for _, ex := range exchanges {
		c := sum[ex.name]
		if c == nil {
			continue
		}
		s.t.Logf("%s: %s: %d plays (%d without the message): ok %d, sql error %d, not run %d, may have run %d, wrong %d",
			label, ex.name, plays[ex.name], missed[ex.name], c.told[OK], c.told[SQLError], c.told[NotRun], c.told[MayHaveRun], len(c.wrong))
		for i := range c.told {
			all.told[i] += c.told[i]
		}
		all.wrong = append(all.wrong, c.wrong...)
		total += plays[ex.name]
		gone += missed[ex.name]
	}
	s.t.Logf("%s: %d plays (%d without the message): ok %d, sql error %d, not run %d, may have run %d, wrong %d",
		label, total, gone, all.told[OK], all.told[SQLError], all.told[NotRun], all.told[MayHaveRun], len(all.wrong))
	var lines []string
	for line := range s.harm {
		lines = append(lines, line)
	}
	slices.Sort(lines)
	for i, line := range lines {
		if i == 40 {
			s.t.Errorf("and %d more", len(lines)-i)
			break
		}
		s.t.Errorf("%s (%d times)", line, s.harm[line])
	}
	// Nothing may have come later.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var late tally
	for _, p := range s.played {
		present, order, err := s.rows(ctx, p.base)
		if err != nil {
			s.t.Fatal(err)
		}
		late.compare(p, present, order)
	}
	if len(late.wrong) > len(all.wrong) {
		s.t.Errorf("rows came later: %d are wrong, of plays with %d", len(late.wrong), len(all.wrong))
	}
}
