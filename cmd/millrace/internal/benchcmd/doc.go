// Package benchcmd implements the commands millrace bench, millrace bench compare and millrace
// tune, as structs for kong:
//
//	var cli struct {
//		Bench benchcmd.Bench `cmd:"" help:"Measure servers."`
//		Tune  benchcmd.Tune  `cmd:"" help:"Search serve's flags for a workload."`
//	}
//	…
//	err := ctx.Run(&benchcmd.Streams{Out: stdout, Err: stderr})
//
// main must call bench.RunGenerator before anything else. An error with an ExitCode method is the
// result of a command that itself worked: 1 for a regression, a missed objective or a wrong reply,
// 130 for an interrupt.
package benchcmd
