//go:build unix

package cluster_test

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// checkLocks says what is wrong with the locks of a history: a token that fell or
// was given twice, a lock that another had while it was still its holder's, or a
// loss nobody was told of.
//
// Until when a lock is its holder's is what he could count on when he last looked:
// the end of the lease that he had renewed by then, or when he began to unlock it.
// That another took it is an error even if he heard of it at once.
func checkLocks(notes []note) error {
	var given []note
	until := map[uint64]int64{} // by token
	for _, n := range notes {
		switch n.Kind {
		case "given":
			given = append(given, n)
		case "held":
			until[n.Token] = max(until[n.Token], n.To)
		case "untold", "lost twice":
			return fmt.Errorf("%d, token %d: %s", n.Who, n.Token, n.Kind)
		}
	}
	for _, n := range notes {
		if n.Kind == "unlock" {
			until[n.Token] = min(until[n.Token], n.From)
		}
	}
	slices.SortFunc(given, func(a, b note) int { return cmp.Compare(a.To, b.To) })
	for i, g := range given {
		for _, later := range given[i+1:] {
			if later.Token == g.Token || later.Token < g.Token && later.From > g.To {
				return fmt.Errorf("token %d to %d after %d to %d", later.Token, later.Who, g.Token, g.Who)
			}
		}
		for _, other := range given {
			if left := until[g.Token] - other.To; other.Token > g.Token && left > 0 {
				return fmt.Errorf("%d got token %d; token %d was %d's for %v more", other.Who, other.Token, g.Token, g.Who, time.Duration(left))
			}
		}
	}
	return nil
}

// checkRegisters asks whether the calls on each key can be put into one order
// that agrees with their answers and with the time (Herlihy and Wing's
// linearizability). A call without a sure answer may have happened at any time
// after it was made, or never: its operation stays open to the end.
func checkRegisters(notes []note) (checked int, err error) {
	type id struct{ who, op int }
	at := map[id]int{}
	var ops []porcupine.Operation
	for _, n := range notes {
		switch n.Kind {
		case "call":
			at[id{n.Who, n.Op}] = len(ops)
			ops = append(ops, porcupine.Operation{ClientId: n.Who, Input: n.In, Call: n.From,
				Output: registers{Unknown: true}, Return: math.MaxInt64})
		case "return":
			i := at[id{n.Who, n.Op}]
			ops[i].Output = n.Out
			if !n.Out.Unknown {
				ops[i].Return = n.To
			}
		}
	}
	ops = slices.DeleteFunc(ops, func(o porcupine.Operation) bool {
		out := o.Output.(registers)
		return out.Dropped || out.Unknown && o.Input.(register).Call == "get"
	})
	switch got := porcupine.CheckOperationsTimeout(registerModel.ToModel(), ops, time.Minute); got {
	case porcupine.Ok:
		return len(ops), nil
	default:
		return len(ops), fmt.Errorf("%d calls on registers: %v", len(ops), got)
	}
}

// registerModel is a string under each key; "" is none.
var registerModel = porcupine.NondeterministicModel{
	Partition: func(all []porcupine.Operation) (parts [][]porcupine.Operation) {
		byKey := map[string][]porcupine.Operation{}
		for _, o := range all {
			key := o.Input.(register).Key
			byKey[key] = append(byKey[key], o)
		}
		for _, part := range byKey {
			parts = append(parts, part)
		}
		return parts
	},
	Init: func() []any { return []any{""} },
	Step: func(state, input, output any) []any {
		now, in, out := state.(string), input.(register), output.(registers)
		then, ok := in.then(now)
		switch {
		case out.Unknown && then == now:
			return []any{now}
		case out.Unknown:
			return []any{now, then}
		case ok == out.OK && (in.Call == "delete" || out.Value == then):
			return []any{then}
		}
		return nil
	},
	DescribeOperation: func(in, out any) string { return fmt.Sprintf("%+v %+v", in, out) },
}

// then is what stands there after the call, and whether it did what it says.
func (r register) then(now string) (string, bool) {
	switch {
	case r.Call == "set", r.Call == "cas" && now == r.Expect:
		return r.Value, true
	case r.Call == "delete":
		return "", now != ""
	}
	return now, r.Call == "get"
}

// The checker of locks finds what it is for, and nothing else.
func TestTheCheckerOfLocks(t *testing.T) {
	first := []note{{Kind: "given", Who: 0, Token: 5, From: 10, To: 20}, {Kind: "held", Who: 0, Token: 5, From: 30, To: 100}}
	for _, c := range []struct {
		name string
		then []note
		bad  bool
	}{
		{name: "given after the lease", then: []note{{Kind: "given", Who: 1, Token: 6, From: 15, To: 101}}},
		{name: "given within the lease", then: []note{{Kind: "given", Who: 1, Token: 6, From: 15, To: 99}}, bad: true},
		{name: "given within a lease that was renewed", bad: true,
			then: []note{{Kind: "held", Token: 5, From: 40, To: 140}, {Kind: "given", Who: 1, Token: 6, From: 15, To: 120}}},
		{name: "given when the holder unlocks", then: []note{{Kind: "unlock", Token: 5, From: 50}, {Kind: "given", Who: 1, Token: 6, From: 15, To: 51}}},
		{name: "given before the holder unlocks", bad: true,
			then: []note{{Kind: "unlock", Token: 5, From: 50}, {Kind: "given", Who: 1, Token: 6, From: 15, To: 49}}},
		{name: "given twice", then: []note{{Kind: "unlock", Token: 5, From: 50}, {Kind: "given", Who: 1, Token: 5, From: 15, To: 60}}, bad: true},
		{name: "a token falls", then: []note{{Kind: "unlock", Token: 5, From: 50}, {Kind: "given", Who: 1, Token: 4, From: 55, To: 60}}, bad: true},
		{name: "an older token, asked for before", then: []note{{Kind: "unlock", Token: 5, From: 50}, {Kind: "given", Who: 1, Token: 4, From: 15, To: 60}}},
		{name: "a loss that nobody is told of", then: []note{{Kind: "untold", Token: 5, From: 200}}, bad: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := checkLocks(slices.Concat(first, c.then)); (err != nil) != c.bad {
				t.Errorf("got %v, want an error: %v", err, c.bad)
			}
		})
	}
}
