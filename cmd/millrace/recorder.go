package main

import (
	"log/slog"

	"millrace/engine"
	"millrace/internal/seldom"
	"millrace/services/capture"
)

// recordFlags configure the recording of traffic.
type recordFlags struct {
	RecordBodies      string `group:"record" placeholder:"FILE" help:"Record what all sessions read and write, bodies included, as a pcapng file for Wireshark and millrace replay; only its owner can read it. Passwords in bodies are recorded too. The previous file is kept as FILE.1 (none)."`
	RecordBodiesLimit size   `group:"record" default:"256MiB" placeholder:"BYTES" help:"Limit of the size of FILE and FILE.1 together, 256KiB or more (${default})."`
	RecordBodiesQueue size   `group:"record" default:"8MiB" placeholder:"BYTES" help:"Limit of bytes waiting to be written, 64KiB or more; above it records are omitted and counted (${default})."`
}

// tap starts the recording; tap is nil without one. stop ends it, and logs a summary.
func (f *recordFlags) tap(frame *frameFlags, maxFrame int, src *sources, log *slog.Logger) (tap engine.Tap, stop func(), err error) {
	if f.RecordBodies == "" {
		return nil, func() {}, nil
	}
	for _, x := range []struct {
		flag  string
		value size
		least size
	}{{"record-bodies-limit", f.RecordBodiesLimit, 256 << 10}, {"record-bodies-queue", f.RecordBodiesQueue, 64 << 10}} {
		if x.value < x.least {
			return nil, nil, exitf(exitUsage, "--%s %v: must be at least %v%s", x.flag, x.value, x.least, src.from(x.flag))
		}
	}
	w, err := capture.Create(capture.Config{
		Path: f.RecordBodies, Limit: int64(f.RecordBodiesLimit), Queue: int(f.RecordBodiesQueue),
		Framing: frame.Framing, Layout: frame.layout(), MaxFrame: maxFrame, Logger: log,
	})
	if err != nil {
		return nil, nil, exitf(exitUsage, "--record-bodies %q: %w%s", f.RecordBodies, err, src.from("record-bodies"))
	}
	return w, func() {
		err := w.Close()
		st := w.Stats()
		log.Info("recorded", "file", f.RecordBodies, "records", st.Records, "bytes", st.Bytes, "omitted", st.Dropped, "files", st.Files, "err", err)
	}, nil
}

// logFlights logs the recorded events of sessions that end with an error or stall.
func logFlights(log *slog.Logger) func(engine.Flight) {
	var line seldom.Line
	return func(f engine.Flight) {
		if held, ok := line.Due(); ok {
			log.Warn("what a session did last", "session", f.Session.String(), "why", f.Why, "addr", f.Remote, "omitted", held, "events", f.String())
		}
	}
}
