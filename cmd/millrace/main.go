package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/alecthomas/kong"

	"millrace/bench"
	"millrace/bench/selfstats"
	"millrace/cmd/millrace/internal/benchcmd"
	"millrace/cmd/millrace/internal/newcmd"
	"millrace/cmd/millrace/internal/topcmd"
	"millrace/internal/mask"
)

// commands is the command line.
type commands struct {
	Serve   serveCmd       `cmd:"" help:"Run the reference server until SIGTERM or SIGINT, then drain."`
	Call    callCmd        `cmd:"" help:"Send one frame to a server and print what comes back."`
	Top     topcmd.Top     `cmd:"" help:"Show a server's activity and problems in a terminal."`
	Replay  replayCmd      `cmd:"" help:"Replay a recording of serve --record-bodies against a server, and compare the answers."`
	Bench   benchcmd.Bench `cmd:"" help:"Measure this server, others and your own, and compare them."`
	Admin   adminCmd       `cmd:"" help:"Drain a server, kick a session or change a setting through its admin server."`
	Tune    benchcmd.Tune  `cmd:"" help:"Find the best flags of serve for a workload on this machine."`
	New     newcmd.New     `cmd:"" help:"Generate a program of your own: a server that builds and runs at once."`
	Doctor  doctorCmd      `cmd:"" help:"Check whether this machine is fit for a server, and say what to change."`
	Version versionCmd     `cmd:"" help:"Print the version, the commit and how it was built."`

	Completion completionCmd `cmd:"" help:"Print the completion script for bash, zsh or fish."`
	Man        manCmd        `cmd:"" help:"Print the manual page: millrace man | man -l -"`
	Complete   completeCmd   `cmd:"" name:"__complete" hidden:""`
}

type versionCmd struct{}

func main() {
	bench.RunGenerator()
	selfstats.Serve()
	hideArguments()
	err := run(os.Args[1:], os.Environ(), os.Stdout, os.Stderr)
	if err != nil {
		sayLast(os.Stderr, "millrace: "+mask.Text(oneLine(err)))
	}
	os.Exit(exitCode(err))
}

// run executes a command line. Its environment and output streams are arguments, for tests.
func run(args, environ []string, stdout, stderr io.Writer) error {
	var cli commands
	src := &sources{environ: environ}
	parser, err := newParser(&cli, src, stdout, stderr, here())
	if err != nil {
		return err
	}
	ctx, err := parser.Parse(args)
	if err != nil {
		return &exitErr{exitUsage, usage(err, src)}
	}
	switch command, _, _ := strings.Cut(ctx.Command(), " "); command {
	case "serve":
		return cli.Serve.run(ctx, src, stdout, stderr)
	case "call":
		return cli.Call.run(stdout)
	case "admin":
		return cli.Admin.run(ctx.Command(), stdout)
	case "top":
		return cli.Top.Run(stdout)
	case "replay":
		return cli.Replay.run(stdout)
	case "doctor":
		return cli.Doctor.run(stdout)
	case "completion":
		return cli.Completion.run(stdout)
	case "man":
		return cli.Man.run(stdout)
	case "__complete":
		return cli.Complete.run(parser.Model, stdout)
	case "new":
		return cli.New.Run(stdout)
	case "bench", "tune":
		return ctx.Run(&benchcmd.Streams{Out: stdout, Err: stderr})
	default:
		fmt.Fprintln(stdout, "millrace "+version())
		return nil
	}
}

// here returns the defaults that depend on this machine.
func here() kong.Vars {
	n := runtime.GOMAXPROCS(0)
	return kong.Vars{"cpus": strconv.Itoa(n), "workers": strconv.Itoa(2 * n)}
}

// newParser creates kong's model of the command line. vars are substituted in the defaults and the
// help.
func newParser(cli *commands, src *sources, stdout, stderr io.Writer, vars kong.Vars) (*kong.Kong, error) {
	return kong.New(cli,
		kong.Name("millrace"),
		kong.Description("An event-loop network server engine: its reference server, clients and tools."),
		kong.Writers(stdout, stderr),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 110}),
		kong.ExplicitGroups(groups),
		kong.Resolvers(src),
		vars,
	)
}

// usage rewords kong's error about an invalid command line.
func usage(err error, src *sources) error {
	var v *valueError
	if errors.As(err, &v) {
		return fmt.Errorf("%s%s", v, src.from(v.flag))
	}
	var place *sourceError
	if errors.As(err, &place) {
		return place
	}
	if strings.Contains(err.Error(), "did you mean") {
		return err
	}
	return fmt.Errorf("%w; see millrace --help", err)
}
