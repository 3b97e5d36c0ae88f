package p2ptest

import "time"

// epoch is when every simulation begins.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

const wheelSize = 4096

// A clock runs what was set for a step, in the order in which it was set.
type clock struct {
	step  time.Duration
	tick  int64
	wheel [wheelSize][]func()
	far   map[int64][]func()
}

func newClock(step time.Duration) *clock {
	return &clock{step: step, far: map[int64][]func(){}}
}

func (c *clock) now() time.Time           { return epoch.Add(c.elapsed()) }
func (c *clock) elapsed() time.Duration   { return time.Duration(c.tick) * c.step }
func (c *clock) at(t time.Time) int64     { return c.ticks(t.Sub(epoch)) }
func (c *clock) in(d time.Duration) int64 { return c.tick + c.ticks(d) }

// ticks rounds up.
func (c *clock) ticks(d time.Duration) int64 { return int64((d + c.step - 1) / c.step) }

// set has f run at a step, the next if that has passed.
func (c *clock) set(at int64, f func()) {
	at = max(at, c.tick+1)
	if at-c.tick >= wheelSize {
		c.far[at] = append(c.far[at], f)
		return
	}
	slot := &c.wheel[at%wheelSize]
	*slot = append(*slot, f)
}

func (c *clock) after(d time.Duration, f func()) { c.set(c.in(d), f) }

// advance goes to the next step and runs what is set for it.
func (c *clock) advance() {
	c.tick++
	if far, ok := c.far[c.tick]; ok {
		delete(c.far, c.tick)
		for _, f := range far {
			f()
		}
	}
	slot := &c.wheel[c.tick%wheelSize]
	for i := 0; i < len(*slot); i++ {
		(*slot)[i]()
		(*slot)[i] = nil
	}
	*slot = (*slot)[:0]
}
