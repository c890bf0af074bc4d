package topcmd

import (
	"errors"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"millrace/services/admin"
	"millrace/services/admin/live"
)

// hostile is what a client could make the server say.
const hostile = "\x1b[2J\x1b]0;title\x07\r\n\x9b31m\u202egnp.exe\xff"

func answer() admin.Live {
	return admin.Live{
		Node: hostile, Started: 1,
		View: live.View{
			At: 60_000, Reasons: []string{hostile},
			Findings: []live.Finding{{Kind: live.Refused, Level: live.Bad, What: "max_conns", Text: hostile, Do: hostile}},
			Loops:    []live.Loop{{Loop: 0, Pauses: 3}}, Handles: []live.Run{{Handle: hostile}}, Limits: []live.Use{{Flag: hostile, Used: 1, Max: 2, Who: hostile}},
			Backs:  []live.Behind{{Name: hostile, Down: hostile, Values: []live.Value{{Name: hostile}}}},
			Costs:  &live.Costs{Known: true, Sessions: []live.Cost{{Name: hostile, Addr: hostile, Tag: hostile}, {}}, Handles: []live.Cost{{Name: hostile}}, Tags: []live.Cost{{}, {Name: hostile}}},
			Events: []live.Event{{Level: live.Bad, Kind: hostile, Text: hostile, N: 3}},
		},
		Sessions: []admin.Session{{Addr: hostile, Reason: hostile}, {Addr: hostile, Paused: []string{hostile}}},
	}
}

func TestWhatTheServerSaysIsTextOnTheTerminal(t *testing.T) {
	tp := &top{Top: &Top{doorFlags: doorFlags{Addr: hostile}, Limit: 10, Sort: "unsent"}, seen: answer(), fault: errors.New(hostile)}
	tp.log = tp.seen.Events
	tp.history = []live.Point{{Seq: 1, Accepts: 3}, {Seq: 2, Accepts: -1}}
	color := regexp.MustCompile("\x1b\\[\\d+m")
	for _, s := range []screen{{width: 80}, {width: 120, color: true}, {width: 10, height: 5}, {width: 1}} {
		out := string(tp.draw(s))
		lines := strings.Split(strings.TrimSuffix(color.ReplaceAllString(out, ""), "\n"), "\n")
		for _, line := range lines {
			if n := utf8.RuneCountInString(line); n > s.width {
				t.Errorf("%d columns on a screen of %d: %q", n, s.width, line)
			}
			if strings.ContainsAny(line, "\x1b\x07\r\u009b\u202e") || !utf8.ValidString(line) {
				t.Errorf("the terminal is told to do something: %q", line)
			}
		}
		if s.height > 0 && len(lines) > s.height {
			t.Errorf("%d lines on a screen of %d", len(lines), s.height)
		}
		if colored := color.MatchString(out); colored != s.color {
			t.Errorf("colours: %v, want %v", colored, s.color)
		}
	}
}

func TestSparks(t *testing.T) {
	points := []live.Point{{Frames: 9}, {Frames: 0}, {Frames: 5}, {Frames: 10}}
	of := func(p live.Point) float64 { return p.Frames }
	for width, want := range map[int]string{6: "  ▇▁▄█", 3: "▁▄█"} {
		if got := spark(points, width, of); got != want {
			t.Errorf("in %d columns: %q, want %q", width, got, want)
		}
	}
}
