package cluster

// Holds says whether this process takes the lock for its own now.
func (c *Cache) Holds(key string, token uint64) bool {
	n := c.live.Load()
	if n == nil {
		return false
	}
	l := n.locks
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.keys[subjectKey(key)]
	return k != nil && k.held != nil && k.held.token == token && l.valid(k, token)
}
