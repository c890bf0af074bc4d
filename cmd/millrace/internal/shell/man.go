package shell

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/alecthomas/kong"
)

// Section is a section that Man adds after the commands, in the language of man(7).
type Section struct{ Title, Text string }

// Man returns the manual page of a command, for section 1. date is that of the version, or "".
func Man(app *kong.Application, version, date string, more []Section) string {
	var b strings.Builder
	fmt.Fprintf(&b, ".TH %s 1 \"%s\" %s \"User Commands\"\n", strings.ToUpper(app.Name), date, quote(app.Name+" "+version))
	fmt.Fprintf(&b, ".SH NAME\n%s \\- %s\n", escape(app.Name), escape(strings.TrimSuffix(app.Help, ".")))
	b.WriteString(".SH SYNOPSIS\n")
	leaves := app.Leaves(true)
	for i, n := range leaves {
		if i > 0 {
			b.WriteString(".br\n")
		}
		fmt.Fprintf(&b, ".B %s %s\n", escape(app.Name), escape(synopsis(n)))
	}
	b.WriteString(".SH COMMANDS\n")
	for _, n := range leaves {
		fmt.Fprintf(&b, ".SS %s\n%s\n", quote(synopsis(n)), escape(n.Help))
		if n.Detail != "" {
			fmt.Fprintf(&b, ".PP\n.nf\n%s\n.fi\n", escape(n.Detail))
		}
		arguments(&b, n)
		flags(&b, n)
	}
	for _, s := range more {
		fmt.Fprintf(&b, ".SH %s\n%s\n", s.Title, strings.TrimSpace(s.Text))
	}
	return b.String()
}

// synopsis formats a command with its arguments.
func synopsis(n *kong.Node) string {
	words := n.Path()
	for _, a := range n.Positional {
		words += " " + a.Summary()
	}
	return words + " [flags]"
}

func arguments(b *strings.Builder, n *kong.Node) {
	for at := n; at != nil; at = at.Parent {
		if at.Type == kong.ArgumentNode {
			argument(b, at.Argument)
		}
	}
	for _, a := range n.Positional {
		argument(b, a)
	}
}

func argument(b *strings.Builder, v *kong.Value) {
	fmt.Fprintf(b, ".TP\n.I %s\n%s\n", escape(v.Summary()), escape(v.Help))
}

// flags writes the flags of a command and of its parents, by group.
func flags(b *strings.Builder, n *kong.Node) {
	group := ""
	for at := n; at != nil && at.Type != kong.ApplicationNode; at = at.Parent {
		for _, f := range at.Flags {
			if f.Hidden {
				continue
			}
			if f.Group != nil && f.Group.Title != group {
				group = f.Group.Title
				fmt.Fprintf(b, ".PP\n%s\n", escape(group))
				if f.Group.Description != "" {
					fmt.Fprintf(b, ".br\n%s\n", escape(f.Group.Description))
				}
			}
			fmt.Fprintf(b, ".TP\n.B %s\n%s\n", escape(flagName(f)), escape(f.Help))
		}
	}
}

func flagName(f *kong.Flag) string {
	name := "--" + f.Name
	if f.Negated {
		name = "--[no-]" + f.Name
	}
	if f.Short != 0 {
		name = "-" + string(f.Short) + ", " + name
	}
	if !f.IsBool() && !f.IsCounter() {
		name += "=" + f.FormatPlaceHolder()
	}
	return name
}

var control = regexp.MustCompile(`(?m)^([.'])`)

// escape escapes characters that are special to roff.
func escape(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`, "–", `\(en`, "…", "...", "×", `\(mu`, "µ", `\(mc`).Replace(s)
	return control.ReplaceAllString(s, `\&$1`)
}

// quote quotes text as one argument of a macro.
func quote(s string) string { return `"` + strings.ReplaceAll(escape(s), `"`, `\(dq`) + `"` }
