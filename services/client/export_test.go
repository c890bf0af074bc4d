package client

var Follow = follow

// Unwritten is how many packets are queued that no connection was given.
func (c *Client) Unwritten() int {
	c.mu.Lock()
	s := c.session
	c.mu.Unlock()
	if s == nil {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return int(s.pushed - s.taken)
}
