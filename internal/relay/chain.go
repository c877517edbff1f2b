package relay

// chain says for recent keys which message of it a way needs next, on PostgreSQL.
//
// Everything of a key below that number was taken by the way, in order, or is for others: who has read a message has read those before it,
// as one statement sees the commits of a key in their order (begin); and what this process announces moves the number by one, if it is the
// one that was needed. So the next one may go as soon as its commit is announced. A number that another process took leaves a gap, and
// what comes after it is read until reading has come by. Of a key that was never heard of, or so long ago that it is forgotten, the
// first message is needed: either there is none before it, or it has been sent already and its subscriber drops it.
//
// A relay that lost its lease without knowing it may go on with what its own process commits. It sends each key from where it was, in
// order, as it does with what it had read.
type chain struct{ recent, older map[string]int64 }

// chainKeys is how many keys are recent. Their numbers are remembered for so many others at least, and twice as many at most.
const chainKeys = 4096

func (c *chain) next(key string) int64 {
	if n, ok := c.recent[key]; ok {
		return n
	}
	if n, ok := c.older[key]; ok {
		return n
	}
	return 1
}

// take says that the way has taken a message.
func (c *chain) take(key string, sequence int64) { c.move(key, max(c.next(key), sequence+1)) }

// pass says that a message is for others.
func (c *chain) pass(key string, sequence int64) {
	if sequence == c.next(key) {
		c.move(key, sequence+1)
	}
}

func (c *chain) move(key string, next int64) {
	if _, ok := c.recent[key]; !ok && len(c.recent) >= chainKeys {
		c.recent, c.older = nil, c.recent
	}
	if c.recent == nil {
		c.recent = map[string]int64{}
	}
	c.recent[key] = next
}
