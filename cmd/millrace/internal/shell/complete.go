package shell

import (
	"embed"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

//go:embed scripts
var scripts embed.FS

// Shells are the shells that Script supports.
var Shells = []string{"bash", "zsh", "fish"}

// Script returns the completion script of a shell for the command called name.
func Script(shell, name string) (string, error) {
	b, err := scripts.ReadFile("scripts/" + shell)
	if err != nil {
		return "", fmt.Errorf("shell %q: must be one of %s", shell, strings.Join(Shells, ", "))
	}
	return strings.ReplaceAll(string(b), "COMMAND", name), nil
}

// Files stands for file names.
const Files = ":files"

// Word is a possible next word.
type Word struct{ Text, Help string }

// Write writes words in the format that the scripts read: one on each line, followed by a tab and
// its help.
func Write(w io.Writer, words []Word) error {
	var b strings.Builder
	for _, word := range words {
		b.WriteString(word.Text + "\t" + word.Help + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Choices is implemented by values of flags and arguments that must be one of a few words.
type Choices interface{ Choices() []string }

// Complete returns the possible completions of the last of words, which may be empty. words are
// those after the command's name.
func Complete(app *kong.Application, words []string) []Word {
	if len(words) == 0 {
		words = []string{""}
	}
	p := &place{node: app.Node, used: map[*kong.Flag]bool{}}
	p.enter(app.Node)
	last := len(words) - 1
	for _, word := range words[:last] {
		p.pass(word)
	}
	return p.next(words[last])
}

// place is a position in the command line.
type place struct {
	node   *kong.Node
	flags  []*kong.Flag // that may follow
	args   []*kong.Positional
	used   map[*kong.Flag]bool
	value  *kong.Flag // whose value comes next
	noFlag bool       // after --
}

func (p *place) enter(n *kong.Node) {
	p.node = n
	p.flags = append(p.flags, n.Flags...)
	p.args = n.Positional
	if d := n.DefaultCmd; d != nil {
		p.flags = append(p.flags, d.Flags...)
		p.args = d.Positional
	}
}

// pass advances the position past a word.
func (p *place) pass(word string) {
	switch {
	case p.value != nil:
		p.value = nil
	case p.noFlag:
		p.argument()
	case word == "--":
		p.noFlag = true
	case strings.HasPrefix(word, "-") && word != "-":
		name, _, whole := strings.Cut(word, "=")
		f := p.flag(name)
		if f == nil {
			return
		}
		if p.used[f] = true; !whole && !f.IsBool() && !f.IsCounter() {
			p.value = f
		}
	default:
		for _, c := range p.node.Children {
			if c.Type == kong.ArgumentNode || c.Name == word || slices.Contains(c.Aliases, word) {
				p.enter(c)
				return
			}
		}
		p.argument()
	}
}

// argument advances past a positional argument; the last may be repeated.
func (p *place) argument() {
	if len(p.args) > 1 || len(p.args) == 1 && !repeatable(p.args[0]) {
		p.args = p.args[1:]
	}
}

// repeatable reports whether a value may be given more than once. kong recognizes only slices of
// unnamed types.
func repeatable(v *kong.Value) bool {
	t := v.Target.Type()
	return v.IsCumulative() || t.Kind() == reflect.Slice && t.Elem().Kind() != reflect.Uint8
}

func (p *place) flag(name string) *kong.Flag {
	for _, f := range p.flags {
		if name == "--"+f.Name || name == "--no-"+f.Name && f.Negated || f.Short != 0 && name == "-"+string(f.Short) {
			return f
		}
	}
	return nil
}

// next returns the completions of cur.
func (p *place) next(cur string) (words []Word) {
	if p.value != nil {
		return values(p.value.Value, p.value.PlaceHolder, "", cur)
	}
	if strings.HasPrefix(cur, "-") && !p.noFlag {
		if name, value, whole := strings.Cut(cur, "="); whole {
			if f := p.flag(name); f != nil {
				return values(f.Value, f.PlaceHolder, name+"=", value)
			}
			return nil
		}
		for _, f := range p.flags {
			if f.Hidden || p.used[f] && !repeatable(f.Value) {
				continue
			}
			if name := "--" + f.Name; strings.HasPrefix(name, cur) {
				words = append(words, Word{name, firstSentence(f.Help)})
			}
			if name := "--no-" + f.Name; f.Negated && strings.HasPrefix(name, cur) {
				words = append(words, Word{name, firstSentence(f.Help)})
			}
		}
		return words
	}
	for _, c := range p.node.Children {
		if !c.Hidden && c.Type == kong.CommandNode && strings.HasPrefix(c.Name, cur) {
			words = append(words, Word{c.Name, firstSentence(c.Help)})
		}
	}
	if len(p.args) > 0 {
		words = append(words, values(p.args[0], p.args[0].Tag.Get("complete"), "", cur)...)
	}
	return words
}

// values returns the possible values that begin with cur, each after prefix.
func values(v *kong.Value, placeHolder, prefix, cur string) (words []Word) {
	var all []string
	if v.Enum != "" {
		all = v.EnumSlice()
	}
	if c, ok := v.Target.Addr().Interface().(Choices); ok {
		all = c.Choices()
	}
	before := ""
	if i := strings.LastIndexByte(cur, ','); i >= 0 && v.IsSlice() {
		before, cur = cur[:i+1], cur[i+1:]
	}
	for _, a := range all {
		if strings.HasPrefix(a, cur) {
			words = append(words, Word{prefix + before + a, ""})
		}
	}
	if len(all) == 0 && (placeHolder == "FILE" || placeHolder == "DIR") {
		words = []Word{{Files, ""}}
	}
	return words
}

// firstSentence returns the part of a help text that fits one line.
func firstSentence(help string) string {
	help, _, _ = strings.Cut(help, "\n")
	if i := strings.Index(help, ". "); i >= 0 {
		help = help[:i]
	}
	help = strings.TrimSuffix(help, ".")
	const most = 80
	if runes := []rune(help); len(runes) > most {
		help = string(runes[:most-1]) + "…"
	}
	return help
}
