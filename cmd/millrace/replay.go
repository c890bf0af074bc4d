package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"millrace/services/capture"
	"millrace/services/client"
)

// replayCmd is millrace replay.
type replayCmd struct {
	File []string `arg:"" complete:"FILE" help:"Files written by serve --record-bodies, or folders of them; together they are one recording, ordered by time."`

	Addr     string `required:"" placeholder:"ADDR" help:"The server: HOST:PORT, tcp://HOST:PORT, unix:///PATH, tls://HOST:PORT, ws://HOST:PORT[/PATH] or wss://HOST:PORT[/PATH]."`
	Speed    speed  `default:"1" placeholder:"N" help:"Speed relative to the recording: 1, 10, 0.5, or max for as fast as possible, which does not keep the order between sessions (${default})."`
	Sessions count  `default:"64" placeholder:"N" help:"Concurrent sessions with --speed=max (${default})."`
	Wait     period `default:"5s" placeholder:"D" help:"How long to wait for a session's missing answers (${default})."`
	Timeout  period `default:"5s" placeholder:"D" help:"Timeout to connect (${default})."`
	JSON     bool   `name:"json" help:"Print the report as JSON (false)."`
	tlsFlags
}

// speed is a factor; 0: max.
type speed float64

func (s speed) String() string {
	if s == 0 {
		return "max"
	}
	return strconv.FormatFloat(float64(s), 'g', -1, 64)
}

func (s *speed) Decode(ctx *kong.DecodeContext) error {
	return decode(ctx, func(text string) error {
		if text == "max" {
			*s = 0
			return nil
		}
		n, err := strconv.ParseFloat(text, 64)
		if err != nil || !(n >= 0.001 && n <= 1e6) {
			return errors.New("must be a factor of 0.001 to 1000000, such as 1 or 10, or max")
		}
		*s = speed(n)
		return nil
	})
}

func (c *replayCmd) run(stdout io.Writer) error {
	f, err := capture.OpenSet(c.File...)
	if err != nil {
		return exitf(exitUsage, "FILE: %w", err)
	}
	defer f.Close()
	rec, err := f.Index()
	if err != nil {
		return exitf(exitUsage, "FILE: %w; give a file that serve --record-bodies has written", err)
	}
	if err := checkAddr("--addr", c.Addr); err != nil {
		return err
	}
	cfg, err := c.tls()
	if err != nil {
		return err
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	dial := func(ctx context.Context) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, time.Duration(c.Timeout))
		defer cancel()
		return client.Connect(ctx, c.Addr, cfg, nil)
	}
	first, err := dial(ctx) // so that an unreachable server is reported in one line
	if err != nil {
		return exitf(exitNoServer, "%w", err)
	}
	first.Close()
	report, err := capture.Play(ctx, f, rec, capture.PlayConfig{Dial: dial, Speed: float64(c.Speed), Sessions: int(c.Sessions), Wait: time.Duration(c.Wait)})
	if report != nil {
		if perr := c.print(stdout, f, rec, report); perr != nil {
			return perr
		}
	}
	switch {
	case err != nil:
		return exitf(exitFailed, "%w", err)
	case !report.Same():
		return exitf(exitError, "%d of %d sessions got answers that differ from the recording, %d could not be replayed", report.Differ, report.Sessions, report.Failed)
	}
	return nil
}

// print writes the report.
func (c *replayCmd) print(w io.Writer, set *capture.Set, rec *capture.Recording, r *capture.Report) error {
	if c.JSON {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(r)
	}
	fmt.Fprintf(w, "%d sessions, %d requests over %v, recorded; %d sessions, %d requests in %v, replayed (at most %v late)\n",
		len(rec.Sessions), rec.Requests, rec.Length.Round(time.Millisecond), r.Sessions, r.Requests, r.Took.Round(time.Millisecond), r.Late.Round(time.Microsecond))
	if files := set.Files(); len(files) > 1 || set.Left() > 0 {
		fmt.Fprintf(w, "%d files, the first %s, the last %s; other files skipped: %d\n", len(files), files[0], files[len(files)-1], set.Left())
	}
	if rec.Dropped > 0 || rec.Cut || r.Incomplete > 0 {
		fmt.Fprintf(w, "the recording lacks %d records; truncated at its end: %v; %d sessions were not compared\n", rec.Dropped, rec.Cut, r.Incomplete)
	}
	fmt.Fprintf(w, "answers: %d recorded, %d received; sessions that differ: %d, that failed: %d\n", r.Want, r.Got, r.Differ, r.Failed)
	for _, d := range r.Differences {
		fmt.Fprintf(w, "  %s: %s: %d recorded, %d came\n", d.Session, d.Answer, d.Want, d.Got)
	}
	for _, e := range r.Errors {
		fmt.Fprintf(w, "  %s\n", e)
	}
	return nil
}
