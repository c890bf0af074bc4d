package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"millrace/engine"
	"millrace/services"
	"millrace/services/serial"
)

// saying is a line on its way into the file.
type saying struct {
	line line
	log  string
	seen uint64
	done func(seq uint64, err error)
}

// chat holds the rooms in memory and their lines in a file. One goroutine, the keeper, numbers lines,
// writes them, and sends them to the members once they are written. Lines that arrive while it is
// writing are written together next.
type chat struct {
	rooms
	file   *file
	server *engine.Server
	page   *page
	says   chan saying

	running atomic.Bool
	quit    chan struct{}
	done    chan struct{}
}

const (
	maxWaiting = 1024                   // lines that wait for the keeper
	maxBatch   = 256                    // lines of one write
	tellEvery  = 250 * time.Millisecond // who is there, and what a full outbox has refused
)

var (
	_ services.Service = (*chat)(nil)
	_ services.Ender   = (*chat)(nil)

	json = serial.JSON(serial.Limits{})
)

// newChat reads the lines of the file at path.
func newChat(path string, l limits) (*chat, error) {
	if l.rooms < 1 || l.rooms > 256 {
		return nil, fmt.Errorf("-rooms %d: must be 1 to 256", l.rooms)
	}
	if l.lines < 1 || l.lines > 100_000 {
		return nil, fmt.Errorf("-lines %d: must be 1 to 100000", l.lines)
	}
	c := &chat{rooms: rooms{limits: l, all: map[string]*room{}}, says: make(chan saying, maxWaiting), quit: make(chan struct{}), done: make(chan struct{})}
	var err error
	c.file, err = openFile(path, func(got line) error {
		x, err := c.get(got.Room)
		if err != nil {
			return fmt.Errorf("room %q is one more than -rooms %d; give a higher one", got.Room, l.rooms)
		}
		if got.Seq != x.last+1 && x.last != 0 || got.Seq == 0 {
			return fmt.Errorf("line %d of room %q comes after %d", got.Seq, got.Room, x.last)
		}
		x.add(got, l.lines)
		x.told = got.Seq
		return nil
	})
	if err != nil {
		return nil, err
	}
	c.log = c.file.log
	return c, nil
}

// Start implements services.Service.
func (c *chat) Start(context.Context) error {
	c.running.Store(true)
	go c.keep()
	return nil
}

// Stop implements services.Service. The server has stopped by then: nobody says anything.
func (c *chat) Stop(ctx context.Context) error {
	if !c.running.Swap(false) {
		return nil
	}
	close(c.quit)
	select {
	case <-c.done:
		return c.file.close()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Running implements services.Service.
func (c *chat) Running() bool { return c.running.Load() }

// Done implements services.Ender.
func (c *chat) Done() <-chan struct{} { return c.done }

func (c *chat) keep() {
	defer close(c.done)
	tick := time.NewTicker(tellEvery)
	defer tick.Stop()
	batch := make([]saying, 0, maxBatch)
	for {
		select {
		case <-c.quit:
			return
		case <-tick.C:
			c.tell(true)
		case s := <-c.says:
			batch = append(batch[:0], s)
			for len(batch) < maxBatch && len(c.says) > 0 {
				batch = append(batch, <-c.says)
			}
			c.write(batch)
			c.tell(false)
		}
	}
}

// write numbers new lines, writes them and answers their requests.
func (c *chat) write(batch []saying) {
	type fate struct {
		seq uint64
		err error
	}
	type named struct{ room, key string }
	fates := make([]fate, len(batch))
	lines := make([]line, 0, len(batch))
	last := map[string]uint64{} // of rooms that get lines
	keys := map[named]uint64{}  // the same line may be in a batch twice
	at := time.Now().UnixMilli()
	c.mu.Lock()
	for i, s := range batch {
		x, err := c.get(s.line.Room)
		if err != nil {
			fates[i].err = err
			continue
		}
		key := named{x.name, s.line.Key}
		if seq := max(x.keys[key.key], keys[key]); key.key != "" && seq != 0 {
			fates[i].seq = seq
			continue
		}
		if key.key != "" && (s.log != c.log || s.seen+1 < x.first()) {
			fates[i].err = errForgotten
			continue
		}
		l := s.line
		l.At = at
		l.Seq = max(last[x.name], x.last) + 1
		last[x.name] = l.Seq
		keys[key] = l.Seq
		lines = append(lines, l)
		fates[i].seq = l.Seq
	}
	c.mu.Unlock()

	err := c.file.append(lines)
	if err != nil {
		slog.Error("chat: lines were not written", "lines", len(lines), "err", err)
	} else {
		c.mu.Lock()
		for _, l := range lines {
			c.all[l.Room].add(l, c.lines)
		}
		c.mu.Unlock()
	}
	for i, s := range batch {
		f := fates[i]
		if f.err == nil && err != nil && f.seq > c.written(s.line.Room) {
			f.err = errNotWritten
		}
		s.done(f.seq, f.err)
	}
	c.compact()
}

var (
	errForgotten = &services.Error{Code: engine.CodeConflict,
		Text: "so much has been said since that nobody knows any more whether this line was, too"}
	errNotWritten = &services.Error{Code: engine.CodeUnavailable, Text: "the line could not be written; try again later"}
)

// written returns the last line of a room in the file.
func (c *chat) written(name string) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if x := c.all[name]; x != nil {
		return x.last
	}
	return 0
}

// compact rewrites the file when most of its lines are no longer kept by any room.
func (c *chat) compact() {
	c.mu.Lock()
	live := int64(0)
	for _, x := range c.all {
		live += x.size
	}
	c.mu.Unlock()
	if c.file.size < 2*live+minCompact {
		return
	}
	var lines []line
	c.mu.Lock()
	for _, x := range c.all {
		lines = append(lines, x.lines...)
	}
	c.mu.Unlock()
	if err := c.file.rewrite(lines); err != nil {
		slog.Error("chat: the history was not compacted", "err", err)
	}
}

// news is what is to be sent to the members of a room.
type news struct {
	room  *room
	lines []line
	who   *whoPush
}

type whoPush struct {
	Room  string   `json:"room"`
	Names []string `json:"names"`
	Count int      `json:"count"`
}

// tell sends the members of each room the lines not sent yet and, with who, who has joined and left.
// Only the keeper sends, so lines are sent in order. What a full outbox refuses is sent at the next
// tick.
func (c *chat) tell(who bool) {
	var all []news
	c.mu.Lock()
	for name, x := range c.all {
		n := news{room: x, lines: append([]line(nil), x.behind(x.told)...)}
		if who && x.changed {
			x.changed = false
			n.who = &whoPush{Room: name}
			n.who.Names, n.who.Count = x.who()
		}
		switch {
		case n.lines != nil || n.who != nil:
			all = append(all, n)
		case len(x.lines) == 0 && len(x.members) == 0:
			delete(c.all, name) // a room of nobody with nothing said
		}
	}
	c.mu.Unlock()
	for _, n := range all {
		if err := c.tellRoom(n); err != nil {
			if !errors.Is(err, engine.ErrBusy) && !errors.Is(err, engine.ErrClosed) {
				slog.Error("chat: a line could not be sent to its room", "room", n.room.name, "err", err)
			}
			if n.who != nil {
				c.mu.Lock()
				n.room.changed = true
				c.mu.Unlock()
			}
		}
	}
}

func (c *chat) tellRoom(n news) error {
	g := c.server.Group(n.room.name)
	for i := range n.lines {
		if err := push(g, subLine, &n.lines[i]); err != nil {
			return err
		}
		n.room.told = n.lines[i].Seq
	}
	if n.who == nil {
		return nil
	}
	return push(g, subWho, n.who)
}

func push(g *engine.Group, sub uint16, v any) error {
	body, err := json.Append(nil, v)
	if err == nil {
		_, err = g.Send(mainChat, sub, body)
	}
	return err
}
