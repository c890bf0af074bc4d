package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"

	"millrace/engine"
	"millrace/services"
)

// limits limit what is kept: at most rooms × lines × about 2 KB of memory, and three times as much in
// the file.
type limits struct{ rooms, lines int }

// line is one chat line. The file, the pushes and the answers contain it in this form.
type line struct {
	Room string `json:"room"`
	Seq  uint64 `json:"seq"` // from 1 in each room, without a gap
	At   int64  `json:"at"`  // Unix milliseconds
	Name string `json:"name"`
	Text string `json:"text"`
	Key  string `json:"key,omitempty"`

	size int // bytes of it in the file
}

// room is one room. All fields except told are guarded by chat.mu; only the keeper adds lines.
type room struct {
	name    string
	lines   []line // the last ones
	last    uint64 // the number of the last one
	size    int64  // bytes of lines in the file
	keys    map[string]uint64
	members map[*engine.Session]person
	names   map[string]*holder // by lower-case name
	changed bool               // who is there, since that was told
	told    uint64             // the last line that members were told; the keeper's
}

// holder is the person who uses a name.
type holder struct {
	id       string
	sessions int
}

// rooms are all rooms of the chat. Its methods may be called from any goroutine.
type rooms struct {
	limits
	log string // names the numbers: they are those of this history and of no other

	mu  sync.Mutex
	all map[string]*room // guarded by mu
}

var errNameTaken = &services.Error{Code: engine.CodeConflict, Text: "somebody else has that name here"}

// get returns a room, and creates it if needed. The caller holds mu.
func (r *rooms) get(name string) (*room, error) {
	if x := r.all[name]; x != nil {
		return x, nil
	}
	if len(r.all) >= r.limits.rooms {
		return nil, &services.Error{Code: engine.CodeLimit, Text: fmt.Sprintf("there are %d rooms, and no more can be", len(r.all))}
	}
	x := &room{name: name, keys: map[string]uint64{}, members: map[*engine.Session]person{}, names: map[string]*holder{}}
	r.all[name] = x
	return x, nil
}

// enter makes s a member of a room, or changes its name in it.
func (r *rooms) enter(s *engine.Session, name string, who person) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	x, err := r.get(name)
	if err != nil {
		return err
	}
	if !x.free(who) {
		return errNameTaken
	}
	x.remove(s)
	x.members[s] = who
	key := strings.ToLower(who.name)
	if x.names[key] == nil {
		x.names[key] = &holder{id: who.id}
	}
	x.names[key].sessions++
	x.changed = true
	return nil
}

// part ends a membership.
func (r *rooms) part(s *engine.Session, name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if x := r.all[name]; x != nil {
		x.remove(s)
	}
}

func (x *room) remove(s *engine.Session) {
	who, in := x.members[s]
	if !in {
		return
	}
	delete(x.members, s)
	key := strings.ToLower(who.name)
	if h := x.names[key]; h.sessions > 1 {
		h.sessions--
	} else {
		delete(x.names, key)
	}
	x.changed = true
}

// free reports whether who may use the name.
func (r *rooms) free(name string, who person) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	x := r.all[name]
	return x == nil || x.free(who)
}

func (x *room) free(who person) bool {
	h := x.names[strings.ToLower(who.name)]
	return h == nil || h.id == who.id
}

// past is a part of a room's lines.
type past struct {
	Log   string `json:"log"`
	First uint64 `json:"first"` // the first line that the room still has; one past Last if it has none
	Last  uint64 `json:"last"`
	Lines []line `json:"lines"` // those behind what was asked for, as many as fit one answer
}

// past returns the lines that follow line after of log. If log is another history, after is ignored.
func (r *rooms) past(name, log string, after uint64) past {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := past{Log: r.log, First: 1, Lines: []line{}}
	x := r.all[name]
	if x == nil {
		return p
	}
	if log != "" && log != r.log {
		after = 0
	}
	p.First, p.Last = x.first(), x.last
	size := 0
	for _, l := range x.behind(after) {
		if size += l.size; size > maxPage {
			break
		}
		p.Lines = append(p.Lines, l)
	}
	return p
}

func (x *room) first() uint64 { return x.last + 1 - uint64(len(x.lines)) }

// behind returns the kept lines that follow a given one.
func (x *room) behind(after uint64) []line {
	if after >= x.last {
		return nil
	}
	return x.lines[max(after+1, x.first())-x.first():]
}

// add adds a line that has been written to the file.
func (x *room) add(l line, keep int) {
	x.last = l.Seq
	x.lines = append(x.lines, l)
	x.size += int64(l.size)
	if l.Key != "" {
		x.keys[l.Key] = l.Seq
	}
	for len(x.lines) > keep {
		old := x.lines[0]
		x.size -= int64(old.size)
		if x.keys[old.Key] == old.Seq {
			delete(x.keys, old.Key)
		}
		x.lines[0] = line{} // the text is not kept by the array
		x.lines = x.lines[1:]
	}
}

// who returns the names in a room, each once, and their number.
func (r *rooms) who(name string) ([]string, int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if x := r.all[name]; x != nil {
		return x.who()
	}
	return []string{}, 0
}

func (x *room) who() ([]string, int) {
	seen := make(map[string]bool, len(x.names))
	names := make([]string, 0, len(x.names))
	for _, p := range x.members {
		if key := strings.ToLower(p.name); !seen[key] {
			seen[key] = true
			names = append(names, p.name)
		}
	}
	slices.Sort(names)
	return names[:min(len(names), maxWho)], len(names)
}

// list returns the rooms sorted by name.
func (r *rooms) list() []roomInfo {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]roomInfo, 0, len(r.all))
	for _, x := range r.all {
		out = append(out, roomInfo{Name: x.name, Here: len(x.names), Last: x.last})
	}
	slices.SortFunc(out, func(a, b roomInfo) int { return cmp.Compare(a.Name, b.Name) })
	return out
}
