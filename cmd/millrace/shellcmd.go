package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/alecthomas/kong"

	"millrace/cmd/millrace/internal/shell"
)

// completionCmd is millrace completion.
type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

func (c *completionCmd) run(stdout io.Writer) error {
	script, err := shell.Script(c.Shell, "millrace")
	if err != nil {
		return err
	}
	_, err = io.WriteString(stdout, script)
	return err
}

// completeCmd is what the scripts of completionCmd run to get the possible next words.
type completeCmd struct {
	Words []string `arg:"" optional:"" passthrough:""`
}

func (c *completeCmd) run(app *kong.Application, stdout io.Writer) error {
	words := c.Words
	if len(words) > 0 && words[0] == "--" {
		words = words[1:]
	}
	return shell.Write(stdout, shell.Complete(app, words))
}

// manCmd is millrace man.
type manCmd struct{}

// run writes the same page on every machine: defaults that depend on the number of CPUs are
// described in words.
func (manCmd) run(stdout io.Writer) error {
	parser, err := newParser(new(commands), &sources{}, io.Discard, io.Discard, kong.Vars{"cpus": "the CPUs", "workers": "twice the CPUs"})
	if err != nil {
		return err
	}
	_, err = io.WriteString(stdout, shell.Man(parser.Model, release(), commitDate(), manSections))
	return err
}

var manSections = []shell.Section{
	{Title: "ENVIRONMENT", Text: `Every flag of serve is also a variable:
.B \-\-max\-frame
is
.BR MILLRACE_MAX_FRAME .
A flag wins over a variable, that over the file of
.BR \-\-config ,
that over the default.
.B MILLRACE_ADMIN_TOKEN
is the token of top,
.B NO_COLOR
takes the colours from it.`},
	{Title: "EXIT STATUS", Text: exitTable()},
	{Title: "SEE ALSO", Text: `.BR systemd.service (5),
.BR sysctl (8)`},
}

// exitCodes lists the exit codes of all commands, as docs/exit-codes.md does.
var exitCodes = []struct {
	codes, commands, meaning string
}{
	{"0", "all", "done; serve: drained, and nothing was lost, or stopped by a signal before it was ready"},
	{"1", "call, admin, replay, bench, bench compare, doctor", "the server answered with an ERROR; answers differ from the recording; a result got worse; the machine is not fit"},
	{"3", "serve", "drained, but data was lost at the deadline: stderr says how much"},
	{"64", "all", "usage error: one line on stderr with the flag, the value and how to fix it"},
	{"69", "serve, call, replay, top, admin, bench", "the address or the database folder is in use, or another node has the name; nothing answers at the address"},
	{"70", "serve", "the engine failed while running"},
	{"75", "call, top, admin", "no answer in time"},
	{"76", "call, top", "the connection ended before the answer, or the data received is not a frame; the peer is not an admin server"},
	{"130, 143", "serve", "a second SIGINT or SIGTERM: stopped at once"},
}

func exitTable() string {
	var b strings.Builder
	for _, c := range exitCodes {
		fmt.Fprintf(&b, ".TP\n.B %s\n%s: %s\n", c.codes, c.commands, c.meaning)
	}
	return b.String()
}
