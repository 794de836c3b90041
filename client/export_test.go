package client

// Waiting counts the operations that lanes hold, sealed or not.
func Waiting(c *Client) (n int) {
	for _, l := range c.dir.allLanes() {
		l.mu.Lock()
		for _, b := range l.queue {
			n += b.live
		}
		for _, b := range l.flying {
			n += b.live
		}
		l.mu.Unlock()
	}
	return n
}

// OnWire tells whether an attempt is being made.
func OnWire(c *Client) bool {
	for _, l := range c.dir.allLanes() {
		l.mu.Lock()
		for _, b := range l.flying {
			if b.attempt != nil {
				l.mu.Unlock()
				return true
			}
		}
		l.mu.Unlock()
	}
	return false
}

// Remembered counts the keys that are spent from memory.
func Remembered(c *Client) int { return c.memory.table.Len() }
