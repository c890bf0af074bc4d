// Package live makes, of what a server has counted, the answer that an operator looks at:
// what is slow, full, paused, refused or failing, since when, and what to do about it.
//
// A [Recorder] is given one [Sample] a second. It keeps two minutes of rates and
// quantiles, what is wrong at present, and a log of what went wrong and was over again;
// [Recorder.View] is all of it, as the live page and millrace top show it. It reads
// counters and starts no goroutine; its methods may be called from any.
//
//	rec := live.NewRecorder()
//	rec.Add(live.Sample{At: time.Now(), Engine: srv.Stats()})
//	json.NewEncoder(w).Encode(rec.View(0))
package live
