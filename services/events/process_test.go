package events_test

import (
	"fmt"
	"io"
	"os"
	"time"

	"millrace/dbasync"
	"millrace/services"
	"millrace/services/events"
)

// lease is that of the processes that are stopped and killed.
const lease = 1500 * time.Millisecond

// leaseChild is a process that runs events: it writes into the table seen when one begins
// and ends, and ends it when the table may says so.
func leaseChild(url string) {
	var db *dbasync.DB
	write := func(key, what string) {
		got := make(chan error, 1)
		if err := db.Query(background, nil, func(r dbasync.QueryResult) { got <- r.Err },
			dbasync.Stmt{SQL: "insert into seen (key, pid, what) values ($1, $2, $3)"}, key, os.Getpid(), what); err != nil {
			panic(err)
		}
		if err := <-got; err != nil {
			panic(err)
		}
	}
	may := func(key string) bool {
		got := make(chan dbasync.QueryResult, 1)
		if err := db.Query(background, nil, func(r dbasync.QueryResult) { got <- r },
			dbasync.Stmt{SQL: "select 1 from may where key = $1 and pid = $2"}, key, os.Getpid()); err != nil {
			panic(err)
		}
		r := <-got
		return r.Err == nil && r.Len() > 0
	}
	ready := make(chan struct{})
	r, err := startDurable(url, func(c *events.Config) { c.Lease, c.Poll = lease, 50*time.Millisecond }, services.Stages[event, services.None]{
		Handle: func(ctx *services.Context, _ *event, _ *services.None) error {
			<-ready
			write(ctx.Key(), "begins")
			for !may(ctx.Key()) {
				time.Sleep(20 * time.Millisecond)
			}
			write(ctx.Key(), "ends")
			return nil
		}})
	if err != nil {
		fmt.Println(err)
		return
	}
	db = r.db
	close(ready)
	go func() { // says when the database has been told of all ends
		for ran := uint64(0); ; time.Sleep(20 * time.Millisecond) {
			if s := r.d.Stats(); s.Running == 0 && s.Ran > ran {
				ran = s.Ran
				write("", fmt.Sprintf("told %d, lost %d", s.Ran, s.Lost))
			}
		}
	}()
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin) // until the test has gone
}
