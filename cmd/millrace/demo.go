package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"sync"
	"time"

	"millrace/cmd/millrace/internal/reference"
	"millrace/codec"
	"millrace/engine"
)

// demoCmd is millrace demo.
type demoCmd struct {
	Conns    count          `default:"64" placeholder:"N" help:"Connections (${default})."`
	Depth    count          `default:"16" placeholder:"N" help:"Requests that each has under way (${default})."`
	Body     size           `default:"64" placeholder:"BYTES" help:"Of each request, 8 or more (${default})."`
	Duration period         `default:"3s" placeholder:"D" help:"How long (${default})."`
	Dispatch dispatchOption `default:"adaptive" placeholder:"MODE" help:"adaptive, ordered or inline (${default})."`
}

func (c *demoCmd) run(stdout io.Writer) error {
	if c.Body < 8 || c.Body > codec.DefaultMaxFrame-4 {
		return exitf(exitUsage, "--body %s: must be 8 to %d", c.Body, codec.DefaultMaxFrame-4)
	}
	router := reference.NewRouter()
	reference.Basics(router, false)
	srv, err := engine.New(engine.Config{
		Addrs: []string{"tcp://127.0.0.1:0"}, Dispatch: c.Dispatch.v, Handles: router.Dispatch(),
		Logger: slog.New(slog.DiscardHandler),
	}, router)
	if err != nil {
		return err
	}
	if err := srv.Start(context.Background()); err != nil {
		return startError(err, &sources{})
	}
	addr := srv.Addrs()[0].String()
	fmt.Fprintf(stdout, "server   tcp://%s, %d loops, dispatch %v; %s on %d CPUs\n", addr, runtime.GOMAXPROCS(0), c.Dispatch, runtime.Version(), runtime.GOMAXPROCS(0))
	fmt.Fprintf(stdout, "clients  %d connections, each with %d echoes of %s bytes under way, %s\n", c.Conns, c.Depth, c.Body, c.Duration)
	runErr := c.measure(addr, stdout)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := errors.Join(runErr, srv.Stop(ctx)); err != nil {
		return exitf(exitFailed, "%w", err)
	}
	fmt.Fprintln(stdout, "drained  nothing lost")
	return nil
}

// measure runs the clients and prints what they saw. Clients and server share the
// CPUs: these are figures to try things with, not the server's limits.
func (c *demoCmd) measure(addr string, stdout io.Writer) error {
	clients := make([]demoClient, c.Conns)
	errs := make([]error, c.Conns)
	var all sync.WaitGroup
	start := time.Now()
	until := start.Add(time.Duration(c.Duration))
	for i := range clients {
		all.Go(func() { errs[i] = clients[i].run(addr, int(c.Depth), int(c.Body), until) })
	}
	all.Wait()
	took := time.Since(start)
	var delays []time.Duration
	frames := 0
	for _, cl := range clients {
		delays = append(delays, cl.delays...)
		frames += cl.frames
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if len(delays) == 0 {
		return errors.New("no frame was answered")
	}
	slices.Sort(delays)
	at := func(q float64) time.Duration {
		return delays[int(q*float64(len(delays)-1))].Round(time.Microsecond)
	}
	fmt.Fprintf(stdout, "answers  %d in %v, in order: %.0f a second\n", frames, took.Round(time.Millisecond), float64(frames)/took.Seconds())
	fmt.Fprintf(stdout, "delay    median %v, 99%% %v, most %v (of every 16th)\n", at(0.5), at(0.99), at(1))
	return nil
}

// demoClient keeps depth numbered echoes under way and checks that they come back in order.
type demoClient struct {
	frames int
	delays []time.Duration
}

const demoSample = 16 // every 16th echo is timed

func (d *demoClient) run(addr string, depth, size int, until time.Time) error {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(until.Add(10 * time.Second))
	w, r := codec.NewWriter(conn, nil), codec.NewReader(conn, nil)
	body := make([]byte, size)
	sent := make([]time.Time, depth) // of request n at n%depth, where it is timed
	var next uint64
	for {
		for time.Now().Before(until) && int(next)-d.frames < depth {
			binary.BigEndian.PutUint64(body, next)
			if next%demoSample == 0 {
				sent[next%uint64(depth)] = time.Now()
			}
			if err := w.Write(codec.Packet{Main: 1, Sub: 1, Body: body}); err != nil {
				return err
			}
			next++
		}
		if err := w.Flush(); err != nil {
			return err
		}
		if d.frames == int(next) {
			return nil // the time is up
		}
		if err := d.take(r, sent, size); err != nil {
			return err
		}
	}
}

// take reads one answer and all that have come with it.
func (d *demoClient) take(r *codec.Reader, sent []time.Time, size int) error {
	for {
		p, err := r.Next()
		if err != nil {
			return fmt.Errorf("after %d answers: %w", d.frames, err)
		}
		n := uint64(d.frames)
		if len(p.Body) != size || binary.BigEndian.Uint64(p.Body) != n {
			return fmt.Errorf("answer %d is wrong or out of order: %d/%d %.16x", n, p.Main, p.Sub, p.Body)
		}
		if n%demoSample == 0 {
			d.delays = append(d.delays, time.Since(sent[n%uint64(len(sent))]))
		}
		d.frames++
		if r.Buffered() < size+8 {
			return nil
		}
	}
}
