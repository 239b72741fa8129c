package hub

import (
	"sync"
	"time"
)

// Rate is how often something may be done: on average, and at once by who was quiet.
type Rate struct{ PerSecond, Burst float64 }

// Bound holds what each of a bounded number of callers has left of a rate. The zero value is ready.
type Bound struct {
	mu   sync.Mutex
	left map[string]allowance
}

type allowance struct {
	left float64
	at   time.Time
}

const callersKnown = 1000

// Admit takes one off what who has left; false when there is nothing.
func (b *Bound) Admit(r Rate, who string, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.left == nil {
		b.left = map[string]allowance{}
	}
	a, known := b.left[who]
	if !known {
		if len(b.left) >= callersKnown {
			b.forget(r, now)
		}
		a = allowance{left: r.Burst, at: now}
	}
	a.left, a.at = min(r.Burst, a.left+r.PerSecond*now.Sub(a.at).Seconds()), now
	ok := a.left >= 1
	if ok {
		a.left--
	}
	b.left[who] = a
	return ok
}

// forget drops who has all of it left again; when all of them call at once, everybody: what they do together has a bound of its own.
func (b *Bound) forget(r Rate, now time.Time) {
	for who, a := range b.left {
		if a.left+r.PerSecond*now.Sub(a.at).Seconds() >= r.Burst {
			delete(b.left, who)
		}
	}
	if len(b.left) >= callersKnown {
		clear(b.left)
	}
}

// Give returns to who what was taken off.
func (b *Bound) Give(r Rate, who string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if a, known := b.left[who]; known {
		a.left = min(r.Burst, a.left+1)
		b.left[who] = a
	}
}
