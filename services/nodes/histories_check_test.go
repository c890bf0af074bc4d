//go:build unix

package nodes_test

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// checkSends says what is wrong with what sessions were sent: a message that came twice, or
// that its sender was told nobody has got.
func checkSends(notes []noted) error {
	got := map[string]bool{}
	for _, n := range notes {
		if n.Kind != "got" {
			continue
		}
		if got[n.In.Msg] {
			return fmt.Errorf("%s has come twice", n.In.Msg)
		}
		got[n.In.Msg] = true
	}
	calls := paired(notes)
	for _, c := range calls {
		if c.In.Call == "send" && got[c.In.Msg] && (c.Out.Dropped || c.Out.OK && c.Out.Value == 0) {
			return fmt.Errorf("%s has come, and its sender was told that it has not", c.In.Msg)
		}
	}
	return nil
}

// checkHomes says what is wrong with the times at which rooms were run by their homes: a home
// that was one still when another with a later token had begun.
func checkHomes(notes []noted) error {
	type life struct{ first, last int64 }
	lives := map[string]map[uint64]life{}
	for _, n := range notes {
		if n.Kind != "ran" {
			continue
		}
		of := lives[n.In.Key]
		if of == nil {
			of = map[uint64]life{}
			lives[n.In.Key] = of
		}
		l, ok := of[n.Out.Token]
		if !ok {
			l = life{n.From, n.From}
		}
		of[n.Out.Token] = life{min(l.first, n.From), max(l.last, n.From)}
	}
	for room, of := range lives {
		for older, a := range of {
			for newer, b := range of {
				if older < newer && a.last >= b.first {
					return fmt.Errorf("%s ran with token %d for %v more when it had begun with token %d", room, older, time.Duration(a.last-b.first), newer)
				}
			}
		}
	}
	return nil
}

// paired are the calls of a history with their answers. One without a sure answer may have
// happened at any time after it was made, or never: it stays open to the end.
func paired(notes []noted) []noted {
	type id struct{ who, op int }
	at := map[id]int{}
	var calls []noted
	for _, n := range notes {
		switch n.Kind {
		case "call":
			at[id{n.Who, n.Op}] = len(calls)
			n.Out, n.To = outcome{Unknown: true}, math.MaxInt64
			calls = append(calls, n)
		case "return":
			c := &calls[at[id{n.Who, n.Op}]]
			c.Out, c.From = n.Out, max(c.From, n.From)
			if !n.Out.Unknown || c.In.Call == "send" {
				c.To = n.To
			}
		}
	}
	return calls
}

// checkLinear asks whether the calls on each user and each room can be put into one order
// that agrees with their answers and with the time (Herlihy and Wing's linearizability).
func checkLinear(notes []noted) (checked int, err error) {
	reached := map[string]string{} // by message: the session
	for _, n := range notes {
		if n.Kind == "got" {
			reached[n.In.Msg] = n.In.Session
		}
	}
	var users, rooms []porcupine.Operation
	for i, c := range paired(notes) {
		op := porcupine.Operation{ClientId: i, Input: c.In, Output: c.Out, Call: c.From, Return: c.To}
		switch {
		case c.Out.Dropped, c.Out.Unknown && c.In.Call == "bound":
		case c.In.Call == "add":
			rooms = append(rooms, op)
		case c.In.Call == "send":
			// Who is sent to is read from the store within the call, whatever comes of it.
			if session := reached[c.In.Msg]; session != "" {
				op.Output = outcome{OK: true, Session: session}
				users = append(users, op)
			}
		default:
			users = append(users, op)
		}
	}
	var errs []error
	for _, of := range []struct {
		what  string
		model porcupine.NondeterministicModel
		ops   []porcupine.Operation
	}{{"users", userModel, users}, {"rooms", roomModel, rooms}} {
		if got := porcupine.CheckOperationsTimeout(of.model.ToModel(), of.ops, time.Minute); got != porcupine.Ok {
			errs = append(errs, fmt.Errorf("%d calls on %s: %v", len(of.ops), of.what, got))
		}
	}
	return len(users) + len(rooms), errors.Join(errs...)
}

func byKey(all []porcupine.Operation) (parts [][]porcupine.Operation) {
	of := map[string][]porcupine.Operation{}
	for _, o := range all {
		key := o.Input.(act).Key
		of[key] = append(of[key], o)
	}
	for _, part := range of {
		parts = append(parts, part)
	}
	return parts
}

func describe(in, out any) string { return fmt.Sprintf("%+v %+v", in, out) }

// holder is what a user is bound to; "" is nothing. Not exact: by a bind that nobody was told
// of, whose epoch is a later one than the one here.
type holder struct {
	session string
	epoch   uint64
	exact   bool
}

var userModel = porcupine.NondeterministicModel{
	Partition: byKey, Init: func() []any { return []any{holder{exact: true}} }, DescribeOperation: describe,
	Step: func(state, input, output any) []any {
		now, in, out := state.(holder), input.(act), output.(outcome)
		free := now
		free.session = ""
		is := func(ok bool, then ...any) []any {
			if !ok {
				return nil
			}
			return then
		}
		switch in.Call {
		case "bind":
			if out.Unknown {
				return []any{now, holder{in.Session, now.epoch, false}}
			}
			return is(out.Epoch > now.epoch, holder{in.Session, out.Epoch, true})
		case "send":
			return is(now.session == out.Session, now)
		case "bound":
			if out.Session == "" {
				return is(now.session == "", now)
			}
			right := out.Epoch == now.epoch || !now.exact && out.Epoch > now.epoch
			return is(now.session == out.Session && right, holder{out.Session, out.Epoch, true})
		case "close":
			switch {
			case now.session != in.Session:
				return []any{now}
			case out.Unknown:
				return []any{now, free}
			}
			return []any{free}
		case "told":
			return is(now.session != in.Session, now)
		}
		return nil
	},
}

// life is what a room is in: the value by that token; not exact: by a later one, of a home
// whose first message nobody was answered.
type life struct {
	token uint64
	value int
	exact bool
}

var roomModel = porcupine.NondeterministicModel{
	Partition: byKey, Init: func() []any { return []any{life{exact: true}} }, DescribeOperation: describe,
	Step: func(state, _, output any) []any {
		now, out := state.(life), output.(outcome)
		if out.Unknown {
			on, anew := now, life{now.token, 1, false}
			on.value++
			if now.token == 0 && now.exact { // no home yet
				return []any{now, anew}
			}
			return []any{now, on, anew}
		}
		goesOn := out.Value == now.value+1 && (out.Token == now.token || !now.exact && out.Token > now.token)
		begins := out.Value == 1 && out.Token > now.token
		if goesOn || begins {
			return []any{life{out.Token, out.Value, true}}
		}
		return nil
	},
}

// The checkers find what they are for, and nothing else.
func TestTheCheckersOfHistories(t *testing.T) {
	op, at := 0, int64(0)
	// did is a call between two times, told of in one answer.
	did := func(from, to int64, in act, out outcome) []noted {
		op++
		return []noted{{Kind: "call", Op: op, In: in, From: from}, {Kind: "return", Op: op, Out: out, To: to}}
	}
	seq := func(in act, out outcome) []noted { at += 10; return did(at, at+5, in, out) }
	bind := func(s string, epoch uint64) []noted {
		return seq(act{Call: "bind", Key: "u", Session: s}, outcome{OK: true, Epoch: epoch})
	}
	add := func(token uint64, value int) []noted {
		return seq(act{Call: "add", Key: "r"}, outcome{OK: true, Token: token, Value: value})
	}
	send := func(msg string, out outcome) []noted { return seq(act{Call: "send", Key: "u", Msg: msg}, out) }
	got := func(s, msg string) []noted { return []noted{{Kind: "got", In: act{Session: s, Msg: msg}, To: at}} }
	ran := func(token uint64, from int64) []noted {
		return []noted{{Kind: "ran", In: act{Key: "r"}, Out: outcome{Token: token}, From: from}}
	}
	one, unknown := outcome{OK: true, Value: 1}, outcome{Unknown: true}
	for _, c := range []struct {
		name string
		do   [][]noted
		bad  bool
	}{
		{name: "sent to who is bound", do: [][]noted{bind("x", 1), bind("y", 2), send("m", one), got("y", "m")}},
		{name: "sent to who was bound before", do: [][]noted{bind("x", 1), bind("y", 2), send("m", one), got("x", "m")}, bad: true},
		{name: "sent while another binds", do: [][]noted{bind("x", 1), did(100, 200, act{Call: "bind", Key: "u", Session: "y"}, outcome{OK: true, Epoch: 2}),
			did(110, 120, act{Call: "send", Key: "u", Msg: "n"}, one), got("x", "n")}},
		{name: "to another by a bind that may have happened", do: [][]noted{bind("x", 1), seq(act{Call: "bind", Key: "u", Session: "y"}, unknown), send("m", one), got("y", "m")}},
		{name: "came twice", do: [][]noted{bind("x", 1), send("m", one), got("x", "m"), got("x", "m")}, bad: true},
		{name: "came, and was not sent", do: [][]noted{bind("x", 1), send("m", outcome{Dropped: true}), got("x", "m")}, bad: true},
		{name: "came, and nobody had it", do: [][]noted{bind("x", 1), send("m", outcome{OK: true}), got("x", "m")}, bad: true},
		{name: "an epoch that falls", do: [][]noted{bind("x", 5), bind("y", 4)}, bad: true},
		{name: "a late end removes the next", bad: true, do: [][]noted{bind("x", 1), bind("y", 2), seq(act{Call: "close", Key: "u", Session: "x"}, one),
			seq(act{Call: "bound", Key: "u"}, outcome{OK: true})}},
		{name: "an end that removes itself", do: [][]noted{bind("x", 1), seq(act{Call: "close", Key: "u", Session: "x"}, one), seq(act{Call: "bound", Key: "u"}, outcome{OK: true})}},
		{name: "told without a reason", bad: true, do: [][]noted{bind("x", 1), seq(act{Call: "told", Key: "u", Session: "x"}, one)}},
		{name: "one value after the other", do: [][]noted{add(7, 1), add(7, 2), add(9, 1)}},
		{name: "a value that is lost", do: [][]noted{add(7, 1), add(7, 1)}, bad: true},
		{name: "a value that came of nothing", do: [][]noted{add(7, 1), add(7, 3)}, bad: true},
		{name: "a value that came of what may have happened", do: [][]noted{add(7, 1), seq(act{Call: "add", Key: "r"}, unknown), add(7, 3)}},
		{name: "a home that was told of by nobody", do: [][]noted{add(7, 1), seq(act{Call: "add", Key: "r"}, unknown), add(9, 2)}},
		{name: "the old home goes on", do: [][]noted{add(7, 1), add(9, 1), add(7, 2)}, bad: true},
		{name: "homes one after the other", do: [][]noted{ran(7, 10), ran(7, 20), ran(9, 30)}},
		{name: "two homes at a time", do: [][]noted{ran(7, 10), ran(9, 20), ran(7, 30)}, bad: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := checkHistory(slices.Concat(c.do...)); (err != nil) != c.bad {
				t.Errorf("got %v, want an error: %v", err, c.bad)
			}
		})
	}
}

// checkHistory is all of it.
func checkHistory(notes []noted) (calls int, err error) {
	calls, linear := checkLinear(notes)
	return calls, errors.Join(checkSends(notes), checkHomes(notes), linear)
}
