// Package live turns a server's counters into what an operator needs to see: what is slow, full,
// paused, refused or failing, since when, and what to do about it.
//
// A [Recorder] is given one [Sample] a second. It keeps two minutes of rates and quantiles, the
// present problems, and a log of problems with their end; [Recorder.View] returns all of it, for
// the live page and millrace top. It only reads counters and starts no goroutine; its methods may
// be called from any goroutine.
//
//	rec := live.NewRecorder()
//	rec.Add(live.Sample{At: time.Now(), Engine: srv.Stats()})
//	json.NewEncoder(w).Encode(rec.View(0))
package live
