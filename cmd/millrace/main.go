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
	Top     topcmd.Top     `cmd:"" help:"Show what a server does, and what is wrong with it, in a terminal."`
	Replay  replayCmd      `cmd:"" help:"Play a recording of serve --record-bodies against a server, and compare the answers."`
	Bench   benchcmd.Bench `cmd:"" help:"Measure this server, others and your own beside each other."`
	Admin   adminCmd       `cmd:"" help:"Drain a server, kick a session, change a setting: by its --admin."`
	Tune    benchcmd.Tune  `cmd:"" help:"Search serve's flags for a workload on this machine."`
	New     newcmd.New     `cmd:"" help:"Write a program of your own: a server that builds and runs at once."`
	Doctor  doctorCmd      `cmd:"" help:"Look at this machine for what a server needs, and say what to change."`
	Version versionCmd     `cmd:"" help:"Print the version, the commit and how it was built."`

	Completion completionCmd `cmd:"" help:"Print what bash, zsh or fish reads to complete this command's words."`
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
		fmt.Fprintln(os.Stderr, "millrace: "+mask.Text(oneLine(err)))
	}
	os.Exit(exitCode(err))
}

// run is the whole command with its surroundings as arguments.
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

// here is what defaults are on this machine.
func here() kong.Vars {
	n := runtime.GOMAXPROCS(0)
	return kong.Vars{"cpus": strconv.Itoa(n), "workers": strconv.Itoa(2 * n)}
}

// newParser makes kong's model of the command line. vars are put into the defaults and the help.
func newParser(cli *commands, src *sources, stdout, stderr io.Writer, vars kong.Vars) (*kong.Kong, error) {
	return kong.New(cli,
		kong.Name("millrace"),
		kong.Description("A reactor networking engine: the reference server and a client to try it with."),
		kong.Writers(stdout, stderr),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 110}),
		kong.ExplicitGroups(groups),
		kong.Resolvers(src),
		vars,
	)
}

// usage words what kong says of a wrong command line.
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
