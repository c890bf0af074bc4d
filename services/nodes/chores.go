package nodes

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"millrace/engine"
	"millrace/services"
	"millrace/services/cluster"
)

// chores are the users whose binding in the store must be checked: their session has ended, the
// outcome of a bind is unknown, or this node could not receive for a while. Each is queued at most
// once, so the number of users bound here limits them.
type chores struct {
	n *Node

	mu      sync.Mutex
	wake    *sync.Cond
	queue   []string        // guarded by mu
	in      map[string]bool // guarded by mu; those in queue
	busy    map[string]int  // guarded by mu; how many workers check each user
	all     bool            // guarded by mu; every user must be checked
	ended   bool            // guarded by mu
	workers sync.WaitGroup
}

const choreWorkers = 4

func newChores(n *Node) *chores {
	c := &chores{n: n, in: map[string]bool{}, busy: map[string]int{}}
	c.wake = sync.NewCond(&c.mu)
	return c
}

func (u *users) start() {
	u.todo.mu.Lock()
	u.todo.ended = false
	u.todo.mu.Unlock()
	for range choreWorkers {
		u.todo.workers.Go(u.todo.work)
	}
}

// stop unbinds every user of this node while ctx lasts.
func (u *users) stop(ctx context.Context) error {
	u.mu.Lock()
	clear(u.sessions) // none is valid any more
	var all []string
	for user := range u.bound {
		all = append(all, user)
	}
	u.mu.Unlock()
	for _, user := range all {
		u.todo.add(user)
	}
	left := u.todo.finish(ctx)
	if left > 0 {
		return fmt.Errorf("nodes: users that are still bound in the store, to closed sessions: %d", left)
	}
	return nil
}

// recheck compares all bindings of this node with the store.
func (u *users) recheck() {
	c := u.todo
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = true
	c.wake.Signal()
}

func (c *chores) add(user string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.in[user] {
		c.in[user] = true
		c.queue = append(c.queue, user)
		c.wake.Signal()
	}
}

// finish waits until everything is done, ctx ends, or the store is unavailable; then the workers
// end. It returns how many users are left.
func (c *chores) finish(ctx context.Context) int {
	stop := context.AfterFunc(ctx, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.wake.Broadcast()
	})
	defer stop()
	c.mu.Lock()
	for (len(c.queue) > 0 || len(c.busy) > 0) && ctx.Err() == nil && (c.n.cache == nil || c.n.cache.Running()) {
		c.wake.Wait()
	}
	left := len(c.queue)
	for user := range c.busy {
		if !c.in[user] {
			left++
		}
	}
	c.ended = true
	c.wake.Broadcast()
	c.mu.Unlock()
	c.workers.Wait()
	c.mu.Lock()
	c.queue = nil
	clear(c.in)
	c.mu.Unlock()
	return left
}

// work is the goroutine of a worker.
func (c *chores) work() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		for len(c.queue) == 0 && !c.all && !c.ended {
			c.wake.Wait()
		}
		if c.ended {
			return
		}
		if c.all {
			c.all = false
			c.mu.Unlock()
			c.addAll()
			c.mu.Lock()
			continue
		}
		user := c.queue[0]
		c.queue = c.queue[1:]
		delete(c.in, user)
		c.busy[user]++
		c.mu.Unlock()
		err := c.n.users.settle(c.n.run, user)
		if err != nil {
			sleep(c.n.run, 100*time.Millisecond) // the store is unavailable
			c.add(user)
		}
		c.mu.Lock()
		if c.busy[user]--; c.busy[user] == 0 {
			delete(c.busy, user)
		}
		c.wake.Broadcast()
	}
}

func (c *chores) addAll() {
	u := &c.n.users
	u.mu.Lock()
	var all []string
	for user := range u.bound {
		all = append(all, user)
	}
	u.mu.Unlock()
	for _, user := range all {
		c.add(user)
	}
}

// settle compares what this node knows of a user with the store and corrects both: a session that
// has lost the user is notified, and a session that has ended is unbound. If the store has no
// binding of the user, another node bound and unbound it, or the store lost it: the session here
// has lost the user. An error means that the store is unavailable.
func (u *users) settle(ctx context.Context, user string) error {
	u.mu.Lock()
	b := u.bound[user]
	open := b.s != nil && u.sessions[b.s] != nil
	u.mu.Unlock()
	if ad, ok := u.adoption(user); ok {
		lost, err := u.adopt(ctx, user, ad)
		if lost != nil {
			lost()
		}
		return err
	}
	if u.n.cache == nil {
		if !open {
			u.forget(user, b)
		}
		return nil
	}
	ctx, cancel := u.n.bounded(ctx)
	defer cancel()
	e, err := u.n.cache.Users().Get(ctx, user)
	if err != nil && !errors.Is(err, services.ErrNotFound) {
		return err
	}
	u.mu.Lock()
	before, doubted := u.doubts[user]
	delete(u.doubts, user)
	u.mu.Unlock()
	id, err := sessionID(e.Value)
	epoch := cluster.Epoch(e.Revision)
	switch ours := err == nil && id.Process == u.n.process; {
	case ours && u.holds(id.Session, user):
		s := u.n.session(id.Session)
		if s == nil {
			u.todo.add(user)
		} else if doubted {
			u.won(s, user, epoch, before)
		} else {
			u.note(s, user, epoch)
		}
		return nil
	case ours && u.n.moves.hasGone(id.Session):
		return nil // its new node tells the store; if that dies, see moves.sweeper
	case ours:
		return u.unbind(ctx, user, e, b)
	}
	if open && (epoch > b.epoch || e.Revision == 0) {
		u.replace(b.s.ID(), user, max(epoch, b.epoch+1))
	}
	u.forget(user, b)
	return nil
}

// holds reports whether a session of this node is open and has the user.
func (u *users) holds(id engine.ID, user string) bool {
	s := u.n.session(id)
	if s == nil {
		return false
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	of := u.sessions[s]
	return of != nil && of.users[user]
}

// unbind deletes the binding of an ended session from the store, if it is still there unchanged.
func (u *users) unbind(ctx context.Context, user string, e services.Entry, b binding) error {
	_, _, err := u.n.cache.Users().CompareAndSetRevision(ctx, user, e.Revision, nil, time.Second)
	if err == nil {
		u.forget(user, b)
	}
	return err
}

// forget deletes what is known of a user, if it is still b.
func (u *users) forget(user string, b binding) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.bound[user] == b {
		delete(u.bound, user)
	}
}
